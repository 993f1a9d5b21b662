"""Promises of `ExecutionStorage` about trimming the logs of ended executions."""

from __future__ import annotations

import hashlib

import pytest

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import CursorOutOfRange, RevisionConflict
from cloutagent_server.domain.events import TerminalPayload
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage.base import Storage
from tests.support import builders

EVENTS = len(builders.payloads_of_a_run())


async def ended(storage: Storage, project: Project, end: TerminalPayload | None = None) -> Execution:
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    return await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run(end)))


@pytest.mark.parametrize(
    "end", [builders.completed(), builders.failed(), builders.cancelled()], ids=lambda end: end.kind
)
async def test_the_execution_and_its_last_event_stay(storage: Storage, project: Project, end: TerminalPayload) -> None:
    before = await ended(storage, project, end)
    assert await storage.executions.trim(before.id)
    assert await storage.executions.read(before.id) == before
    assert list((await storage.executions.list(project.id, 10)).items) == [before]
    last = event_json.encode(builders.event(before.id, EVENTS, end))
    assert list(await storage.executions.read_events(before.id, EVENTS - 1, 10)) == [last]
    assert list(await storage.executions.read_events(before.id, EVENTS, 10)) == []
    again = builders.execution(project.id, idempotency=before.idempotency)
    assert await storage.executions.create(again) == before


@pytest.mark.parametrize("after_sequence", [-1, 0, 1, EVENTS - 2])
async def test_a_cursor_before_what_is_left(storage: Storage, project: Project, after_sequence: int) -> None:
    execution = await ended(storage, project)
    await storage.executions.trim(execution.id)
    with pytest.raises(CursorOutOfRange) as caught:
        await storage.executions.read_events(execution.id, after_sequence, 10)
    assert caught.value.metadata == {"first_sequence": str(EVENTS), "last_sequence": str(EVENTS)}


async def test_the_digest_of_the_whole_log_stays(storage: Storage, project: Project) -> None:
    execution, other = await ended(storage, project), await storage.executions.create(builders.execution(project.id))
    assert await storage.executions.trimmed_digest(execution.id) is None
    events = await storage.executions.read_events(execution.id, 0, 100)
    assert len(events) == EVENTS
    data = b"".join(event.data + b"\n" for event in events)
    whole = LogDigest(hashlib.sha256(data).hexdigest(), 1, EVENTS, len(data))
    for _ in range(2):
        await storage.executions.trim(execution.id)
        assert await storage.executions.trimmed_digest(execution.id) == whole
    assert await storage.executions.trimmed_digest(other.id) is None
    await storage.executions.delete(execution.id)
    assert await storage.executions.trimmed_digest(execution.id) is None


async def test_a_log_is_trimmed_once(storage: Storage, project: Project) -> None:
    execution = await ended(storage, project)
    [whole] = await storage.executions.list_histories()
    assert (whole.execution_id, whole.trimmed) == (execution.id, False)
    assert [await storage.executions.trim(execution.id) for _ in range(3)] == [True, False, False]
    [left] = await storage.executions.list_histories()
    assert left.trimmed
    assert left.size < whole.size


async def test_nothing_follows_a_trimmed_log(storage: Storage, project: Project) -> None:
    execution = await ended(storage, project)
    await storage.executions.trim(execution.id)
    for sequence, error in ((EVENTS + 1, ValueError), (EVENTS, RevisionConflict), (1, RevisionConflict)):
        with pytest.raises(error):
            await storage.executions.append([builders.event(execution.id, sequence)])


async def test_what_has_not_ended_is_left_alone(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.events(execution.id, [builders.queued(), builders.started()]))
    assert not await storage.executions.trim(execution.id)
    assert list(await storage.executions.list_histories()) == []
    assert len(await storage.executions.read_events(execution.id, 0, 10)) == 2


async def test_what_is_not_there(storage: Storage) -> None:
    for execution_id in (new_id(), "../x"):
        assert not await storage.executions.trim(execution_id)
        assert await storage.executions.trimmed_digest(execution_id) is None
