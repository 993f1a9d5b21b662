"""Promises of `ExecutionStorage` to watchers: notify, then read the log."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from cloutagent_server.domain.events import Payload
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage
from tests.support import builders

T = TypeVar("T")

DEADLINE = 20


@pytest.fixture
async def execution(storage: Storage, project: Project) -> Execution:
    return await storage.executions.create(builders.execution(project.id))


async def waiting(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task for a call that has had its chance to return and has not."""
    task = asyncio.ensure_future(coroutine)
    done, _ = await asyncio.wait({task}, timeout=0.1)
    assert not done
    return task


async def follow(storage: Storage, execution_id: str, after_sequence: int = 0, limit: int = 256) -> list[int]:
    """What a watcher does: read to the end of what is there, wait, and so on to the end of the execution."""
    seen: list[int] = []
    while True:
        batch = await storage.executions.read_events(execution_id, after_sequence, limit)
        seen += [event.sequence for event in batch]
        if batch:
            after_sequence = batch[-1].sequence
            if batch[-1].kind in ("completed", "failed", "cancelled"):
                return seen
        else:
            await storage.executions.wait_for_events(execution_id, after_sequence)


async def test_wait_returns_at_once_when_there_are_events(storage: Storage, execution: Execution) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    async with asyncio.timeout(DEADLINE):
        await storage.executions.wait_for_events(execution.id, 0)
        await storage.executions.wait_for_events(execution.id, 1)


async def test_wait_returns_at_once_when_the_execution_has_ended(storage: Storage, execution: Execution) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.cancelled()]))
    async with asyncio.timeout(DEADLINE):
        await storage.executions.wait_for_events(execution.id, 1)
        await storage.executions.wait_for_events(execution.id, 99)


async def test_wait_returns_for_the_next_event(storage: Storage, execution: Execution) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    task = await waiting(storage.executions.wait_for_events(execution.id, 2))
    await storage.executions.append([builders.event(execution.id, 3)])
    await asyncio.wait_for(task, DEADLINE)


async def test_a_wait_brings_the_events_that_follow_or_nothing(storage: Storage, execution: Execution) -> None:
    """Whoever knows less, or has nothing at hand, reads."""
    tail, behind = [await waiting(storage.executions.wait_for_events(execution.id, after)) for after in (0, 3)]
    await storage.executions.append(builders.texts(execution.id, 4))
    stored = tuple(await storage.executions.read_events(execution.id, 0, 10))
    async with asyncio.timeout(DEADLINE):
        assert await tail in (stored, ())
        assert await behind in (stored[3:], ())
        assert await storage.executions.wait_for_events(execution.id, 2) in (stored[2:], ())


async def test_a_wait_whose_time_is_over_brings_none(storage: Storage, execution: Execution) -> None:
    async with asyncio.timeout(DEADLINE):
        long = asyncio.create_task(storage.executions.wait_for_events(execution.id, 0, 0.2))
        short = asyncio.create_task(storage.executions.wait_for_events(execution.id, 0, 0.05))
        assert await short is None
        assert not long.done()
        assert await long is None


async def test_wait_goes_on_until_the_awaited_event(storage: Storage, execution: Execution) -> None:
    task = await waiting(storage.executions.wait_for_events(execution.id, 2))
    await storage.executions.append(builders.texts(execution.id, 2))
    await asyncio.wait({task}, timeout=0.1)
    assert not task.done()
    await storage.executions.append([builders.event(execution.id, 3)])
    await asyncio.wait_for(task, DEADLINE)


async def test_events_of_another_execution_wake_nobody(
    storage: Storage, project: Project, execution: Execution
) -> None:
    other = await storage.executions.create(builders.execution(project.id))
    task = await waiting(storage.executions.wait_for_events(execution.id, 0))
    await storage.executions.append(builders.texts(other.id, 2))
    await asyncio.wait({task}, timeout=0.1)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})


async def test_wait_returns_when_the_execution_is_deleted(storage: Storage, execution: Execution) -> None:
    task = await waiting(storage.executions.wait_for_events(execution.id, 0))
    await storage.executions.delete(execution.id)
    await asyncio.wait_for(task, DEADLINE)


async def test_wait_returns_when_the_project_is_deleted(
    storage: Storage, project: Project, execution: Execution
) -> None:
    task = await waiting(storage.executions.wait_for_events(execution.id, 0))
    await storage.projects.delete(project.id)
    await asyncio.wait_for(task, DEADLINE)


async def test_a_watcher_that_left_harms_nobody(storage: Storage, execution: Execution) -> None:
    leaving = await waiting(storage.executions.wait_for_events(execution.id, 0))
    staying = await waiting(storage.executions.wait_for_events(execution.id, 0))
    leaving.cancel()
    await storage.executions.append([builders.event(execution.id, 1)])
    await asyncio.wait_for(staying, DEADLINE)
    assert leaving.cancelled()


async def test_many_watchers_get_every_event_once_in_order(storage: Storage, execution: Execution) -> None:
    last = 61
    early = [asyncio.create_task(follow(storage, execution.id, limit=limit)) for limit in (1, 3, 256) for _ in range(8)]
    payloads: list[Payload] = [builders.started(), *[builders.text_delta()] * (last - 2), builders.completed()]
    events = builders.events(execution.id, payloads)
    late = []
    for number, event in enumerate(events):
        if number % 20 == 10:
            late.append((number, asyncio.create_task(follow(storage, execution.id, after_sequence=number - 5))))
        await storage.executions.append([event])
    async with asyncio.timeout(DEADLINE):
        for watcher in early:
            assert await watcher == list(range(1, last + 1))
        for number, watcher in late:
            assert await watcher == list(range(number - 4, last + 1))
        assert await follow(storage, execution.id, after_sequence=2) == list(range(3, last + 1))


async def test_a_slow_watcher_neither_stalls_the_writer_nor_loses_events(
    storage: Storage, execution: Execution
) -> None:
    """A watcher that is behind by more than any buffer reads history, and the writer never waits for it."""
    first = asyncio.Event()
    written = asyncio.Event()

    async def slow() -> list[int]:
        await storage.executions.wait_for_events(execution.id, 0)
        first.set()
        await written.wait()
        return await follow(storage, execution.id)

    watcher = asyncio.create_task(slow())
    async with asyncio.timeout(DEADLINE):
        await storage.executions.append(builders.events(execution.id, [builders.started()]))
        await first.wait()
        for start in range(1, 3001, 100):
            await storage.executions.append(builders.texts(execution.id, 100, after=start))
        await storage.executions.append(builders.events(execution.id, [builders.completed()], after=3001))
        written.set()
        assert await watcher == list(range(1, 3003))
