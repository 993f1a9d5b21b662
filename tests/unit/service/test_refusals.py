"""Refused calls in the audit log: few records of one caller, and none is lost from the count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry
from cloutagent_server.service.refusals import RECORDED_EACH, Refusals
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support.api.failure import ApiFailure
from tests.support.scraping import watched_server

DEADLINE_SECONDS = 10.0


class Log:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.summed = asyncio.Event()

    async def record(self, entry: AuditEntry) -> None:
        """Take a record."""
        self.entries.append(entry)
        if entry.count is not None:
            self.summed.set()


def refused(actor: str, number: int = 0) -> AuditEntry:
    return AuditEntry(actor, "secret.delete", audit.DENIED, request_id=str(number))


async def test_the_first_of_each_are_recorded_and_the_others_counted() -> None:
    log = Log()
    refusals = Refusals(log.record)
    for number in range(1500):
        await refusals.add(refused("key:a/1", number))
    for number in range(RECORDED_EACH):
        await refusals.add(refused("key:b/2", number))
    assert [entry.request_id for entry in log.entries] == [*map(str, range(RECORDED_EACH))] * 2
    await refusals.stop()
    # Of the other one there is nothing more to tell.
    assert log.entries[2 * RECORDED_EACH :] == [
        AuditEntry("key:a/1", audit.ACCESS, audit.DENIED, count=1500 - RECORDED_EACH)
    ]


async def test_the_number_is_recorded_when_the_window_is_over_and_a_new_one_begins() -> None:
    log = Log()
    refusals = Refusals(log.record, seconds=0.01)
    for number in range(RECORDED_EACH + 3):
        await refusals.add(refused("key:a/1", number))
    await asyncio.wait_for(log.summed.wait(), DEADLINE_SECONDS)
    assert [entry.count for entry in log.entries[RECORDED_EACH:]] == [3]
    await refusals.add(refused("key:a/1"))
    assert log.entries[-1].action == "secret.delete"
    await refusals.stop()
    assert len(log.entries) == RECORDED_EACH + 2


async def test_a_server_that_stops_records_what_it_counted(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        mine, other = await server.projects(), await server.projects()
        for _ in range(RECORDED_EACH + 2):
            with pytest.raises(ApiFailure):
                await server.api.call("DeleteSecret", {"projectId": other.id, "name": "TOKEN"}, mine.key)
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    last = (await storage.audit.read(0, 1000))[-1]
    await storage.stop()
    assert last.entry.actor.startswith(f"key:{mine.id}/")
    assert (last.entry.action, last.entry.count) == (audit.ACCESS, 2)
