"""Which logs are trimmed, and when."""

from __future__ import annotations

from datetime import timedelta

from cloutagent_server.domain.errors import CursorOutOfRange
from cloutagent_server.domain.execution import Execution
from cloutagent_server.service.retention import Retention
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders

WEEK = timedelta(days=7)
NO_LIMIT = 1 << 40


async def ended(storage: MemoryStorage, minutes: int) -> Execution:
    """An execution that ended so many minutes after the others' beginning."""
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    execution = await storage.executions.create(builders.execution(project.id))
    payloads = builders.payloads_of_a_run()
    events = [
        builders.event(execution.id, number, payload, time=builders.at(minutes * 60_000))
        for number, payload in enumerate(payloads, 1)
    ]
    return await storage.executions.append(events)


async def trimmed(storage: MemoryStorage, execution: Execution) -> bool:
    try:
        await storage.executions.read_events(execution.id, 0, 1)
    except CursorOutOfRange:
        return True
    return False


async def test_events_are_kept_for_their_time() -> None:
    storage = MemoryStorage()
    old, young = await ended(storage, 0), await ended(storage, 10)
    retention = Retention(storage.executions, WEEK, NO_LIMIT)
    assert await retention.sweep(builders.at(0) + WEEK - timedelta(minutes=1)) == 0
    assert await retention.sweep(builders.at(0) + WEEK + timedelta(minutes=5)) == 1
    assert [await trimmed(storage, one) for one in (old, young)] == [True, False]
    assert await storage.executions.read(old.id) == old
    assert await retention.sweep(builders.at(0) + WEEK + timedelta(minutes=5)) == 0


async def test_the_oldest_go_first_while_all_are_too_large() -> None:
    storage = MemoryStorage()
    executions = [await ended(storage, minutes) for minutes in (5, 1, 3)]
    sizes = [history.size for history in await storage.executions.list_histories()]
    retention = Retention(storage.executions, WEEK, sum(sizes) - 1)
    assert await retention.sweep(builders.at(0)) == 1
    assert [await trimmed(storage, one) for one in executions] == [False, True, False]


async def test_what_has_not_ended_is_never_trimmed() -> None:
    storage = MemoryStorage()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    running = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.events(running.id, [builders.queued(), builders.started()]))
    assert await Retention(storage.executions, WEEK, 1).sweep(builders.at(0) + 10 * WEEK) == 0
    assert not await trimmed(storage, running)
