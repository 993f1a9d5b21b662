"""The audit log: records in one chain, and what they say of the secrets of projects."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import EMPTY, AuditEntry, Resource
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.secret import SecretsHead
from cloutagent_server.storage.base import Storage


def entry(project_id: str | None = None, **changes: Any) -> AuditEntry:
    made = AuditEntry(
        "admin", "secret.set", audit.OK, Resource(project_id, secret="TOKEN"), request_id="r-1", source="192.0.2.1"
    )
    return replace(made, **changes)


def head(revision: int, digit: str = "a") -> SecretsHead:
    return SecretsHead(revision, digit * 64)


async def test_an_empty_log_has_the_head_that_the_first_record_follows(storage: Storage) -> None:
    assert await storage.audit.head() == EMPTY
    assert not await storage.audit.read(0, 10)
    first = await storage.audit.append(entry())
    assert (first.sequence, first.previous) == (1, "0" * 64)
    assert await storage.audit.head() == first.head


async def test_records_are_chained_in_the_order_in_which_they_are_numbered(storage: Storage) -> None:
    added = await asyncio.gather(*(storage.audit.append(entry(request_id=str(number))) for number in range(50)))
    records = list(await storage.audit.read(0, 100))
    assert sorted(added, key=lambda record: record.sequence) == records
    assert [record.sequence for record in records] == list(range(1, 51))
    last = EMPTY
    for record in records:
        assert record.previous == last.hash
        assert record.hash == record.computed_hash
        last = record.head
    assert last == await storage.audit.head()
    assert {record.entry.request_id for record in records} == {str(number) for number in range(50)}


async def test_a_record_reads_back_as_it_was_added_in_pages(storage: Storage) -> None:
    full = entry(new_id(), start=1, secrets_head=head(3), outcome="Ä \U0001f600")
    full = replace(full, resource=replace(full.resource, execution_id=new_id(), key_id=new_id()))
    full = replace(full, count=7)
    bare = AuditEntry(audit.OPERATOR, audit.AUTHENTICATION, audit.STARTED)
    for one in (bare, full, bare):
        await storage.audit.append(one)
    [first] = await storage.audit.read(0, 1)
    [second] = await storage.audit.read(first.sequence, 1)
    assert (first.entry, second.entry) == (bare, full)
    assert len(await storage.audit.read(second.sequence, 10)) == 1
    assert not await storage.audit.read(3, 10)


async def test_the_newest_state_of_secrets_is_that_of_the_highest_revision(storage: Storage) -> None:
    project_id, other = new_id(), new_id()
    assert await storage.audit.secrets_head(project_id) is None
    for one in (head(1), head(3), head(2)):
        await storage.audit.append(entry(project_id, secrets_head=one))
    await storage.audit.append(entry(other, secrets_head=head(9)))
    await storage.audit.append(entry(project_id))
    assert await storage.audit.secrets_head(project_id) == head(3)


async def test_a_restore_sets_the_state_back_and_what_was_started_before_it_counts_no_more(storage: Storage) -> None:
    project_id = new_id()
    started = await storage.audit.append(entry(project_id, outcome=audit.STARTED))
    await storage.audit.append(entry(project_id, secrets_head=head(7)))
    restore = AuditEntry(audit.OPERATOR, audit.RESTORE_BACKUP, audit.STARTED, Resource(project_id))
    await storage.audit.append(replace(restore, secrets_head=head(2, "b")))
    assert await storage.audit.secrets_head(project_id) == head(2, "b")
    await storage.audit.append(entry(project_id, start=started.sequence, secrets_head=head(8)))
    assert await storage.audit.secrets_head(project_id) == head(2, "b")
    await storage.audit.append(entry(project_id, secrets_head=head(3)))
    assert await storage.audit.secrets_head(project_id) == head(3)
    await storage.audit.append(restore)
    assert await storage.audit.secrets_head(project_id) is None


async def test_a_deleted_project_has_no_state_of_secrets(storage: Storage) -> None:
    project_id = new_id()
    await storage.audit.append(entry(project_id, secrets_head=head(1)))
    for outcome, expected in ((audit.STARTED, head(1)), (audit.OK, None)):
        await storage.audit.append(entry(project_id, action=audit.DELETE_PROJECT, outcome=outcome))
        assert await storage.audit.secrets_head(project_id) == expected


async def test_a_caller_that_is_cancelled_does_not_stop_its_record(storage: Storage) -> None:
    task = asyncio.ensure_future(storage.audit.append(entry(request_id="cancelled")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await storage.audit.append(entry(request_id="after"))
    assert [record.entry.request_id for record in await storage.audit.read(0, 10)] == ["cancelled", "after"]
