"""Watching: whoever comes whenever sees every event once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.errors import CursorOutOfRange, ExecutionNotFound
from cloutagent_server.domain.events import Completed, Event, Payload, Queued, Started, StoredEvent, TextDelta
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Limits
from cloutagent_server.service.watch import BATCH_EVENTS
from tests.support.hooked_storage import HookedStorage
from tests.support.service_world import DEADLINE_SECONDS, World, make_world


@pytest.fixture
def world() -> World:
    return make_world(storage=HookedStorage())


class Log:
    """An execution whose events the test writes."""

    def __init__(self, world: World, execution: Execution) -> None:
        self.world = world
        self.id = execution.id
        self.last = 0

    async def append(self, *payloads: Payload) -> None:
        """Add events, all at once."""
        events = [
            Event(self.id, self.last + number, timestamps.now(), payload) for number, payload in enumerate(payloads, 1)
        ]
        self.last += len(events)
        await self.world.storage.executions.append(events)

    async def texts(self, count: int) -> None:
        """Add text deltas."""
        await self.append(*(TextDelta(f"{self.last + number}") for number in range(1, count + 1)))

    async def end(self) -> None:
        """Add the last event."""
        await self.append(Completed("done", Usage(), 1))

    def watch(self, after_sequence: int = 0) -> AsyncGenerator[Sequence[StoredEvent], None]:
        """Watch it."""
        return self.world.watches.watch(self.id, after_sequence)


async def begun(world: World) -> Log:
    """A log with two events."""
    project = await world.project()
    execution = Execution(new_id(), project.id, "p", project.agent, Limits(), timestamps.now())
    log = Log(world, await world.storage.executions.create(execution))
    await log.append(Queued(0), Started("m"))
    return log


async def collect(watch: AsyncGenerator[Sequence[StoredEvent], None]) -> list[int]:
    """The sequence numbers of all events of a watch to its end, without heartbeats."""
    seen: list[int] = []
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(watch) as batches:
        async for batch in batches:
            seen += [event.sequence for event in batch]
    return seen


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_replay_of_what_has_ended(world: World) -> None:
    log = await begun(world)
    await log.texts(3)
    await log.end()
    assert await collect(log.watch()) == [1, 2, 3, 4, 5, 6]


async def test_the_last_event_ends_the_watch(world: World) -> None:
    log = await begun(world)
    await log.end()
    assert await collect(log.watch(2)) == [3]
    assert await collect(log.watch(3)) == []


async def test_replay_comes_in_bounded_batches(world: World) -> None:
    log = await begun(world)
    await log.texts(2 * BATCH_EVENTS)
    await log.end()
    sizes = [len(batch) async for batch in log.watch()]
    assert sizes == [BATCH_EVENTS, BATCH_EVENTS, 3]


async def test_live_events_come_as_they_happen(world: World) -> None:
    log = await begun(world)
    async with aclosing(log.watch(2)) as watch:
        for number in range(3, 6):
            coming = asyncio.ensure_future(anext(watch))
            await turns()
            assert not coming.done()
            await log.texts(1)
            batch = await asyncio.wait_for(coming, DEADLINE_SECONDS)
            assert [event.sequence for event in batch] == [number]
        coming = asyncio.ensure_future(anext(watch))
        await turns()
        await log.end()
        assert [event.kind for event in await asyncio.wait_for(coming, DEADLINE_SECONDS)] == ["completed"]
        with pytest.raises(StopAsyncIteration):
            await anext(watch)


async def test_a_late_watcher_sees_history_and_then_what_happens(world: World) -> None:
    log = await begun(world)
    await log.texts(3)
    watching = asyncio.ensure_future(collect(log.watch(1)))
    await turns()
    await log.texts(1)
    await turns()
    await log.end()
    assert await watching == [2, 3, 4, 5, 6, 7]


async def test_a_watcher_that_starts_at_the_end_of_the_log_waits(world: World) -> None:
    log = await begun(world)
    watching = asyncio.ensure_future(collect(log.watch(2)))
    await turns()
    assert not watching.done()
    await log.end()
    assert await watching == [3]


@pytest.mark.parametrize("after", [3, 1000])
async def test_a_cursor_beyond_the_log_is_out_of_range(world: World, after: int) -> None:
    log = await begun(world)
    for call in (log.world.watches.check_cursor(log.id, after), anext(log.watch(after))):
        with pytest.raises(CursorOutOfRange) as caught:
            await call
        assert caught.value.metadata == {"first_sequence": "1", "last_sequence": "2"}


async def test_a_cursor_within_the_log_is_fine(world: World) -> None:
    log = await begun(world)
    for after in range(3):
        assert await world.watches.check_cursor(log.id, after)


async def test_nothing_follows_the_end(world: World) -> None:
    log = await begun(world)
    await log.end()
    assert [await world.watches.check_cursor(log.id, after) for after in range(4)] == [True, True, True, False]


async def test_what_does_not_exist_is_not_found(world: World) -> None:
    for call in (world.watches.check_cursor(new_id(), 0), anext(world.watches.watch(new_id(), 0))):
        with pytest.raises(ExecutionNotFound):
            await call


async def test_a_heartbeat_comes_when_nothing_happens() -> None:
    log = await begun(make_world(heartbeat_seconds=0.01))
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(log.watch(2)) as watch:
        assert [len(await anext(watch)) for _ in range(2)] == [0, 0]
        await log.texts(1)
        beats = 0
        while not (batch := await anext(watch)):
            beats += 1
        assert [event.sequence for event in batch] == [3]
        assert beats <= 1
        await log.end()


async def test_deletion_during_a_watch_ends_it_with_an_error(world: World) -> None:
    log = await begun(world)
    watching = asyncio.ensure_future(collect(log.watch()))
    await turns()
    await world.storage.executions.delete(log.id)
    with pytest.raises(ExecutionNotFound):
        await watching


async def test_deletion_of_the_project_during_a_watch_ends_it_with_an_error(world: World) -> None:
    execution = await world.start(project := await world.project(), "hang")
    await world.until(execution.id, lambda stored: stored.usage.total_tokens > 0)
    watching = asyncio.ensure_future(collect(world.watches.watch(execution.id, 0)))
    await turns()
    await world.storage.projects.delete(project.id)
    with pytest.raises(ExecutionNotFound):
        await watching
    await world.engine.executors[execution.id].stop()


async def woken_for_nothing(
    execution_id: str, after_sequence: int, seconds: float | None = None
) -> Sequence[StoredEvent]:
    """Stands for a wait that ends though nothing has happened."""
    return ()


async def test_deletion_between_two_looks_is_noticed(world: World) -> None:
    log = await begun(world)
    storage = world.storage
    assert isinstance(storage, HookedStorage)
    async with aclosing(log.watch()) as watch:
        await anext(watch)
        storage.executions.wait_for_events = woken_for_nothing  # type: ignore[method-assign]

        async def gone(execution_id: str, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
            await storage.executions.delete(execution_id)
            return ()

        storage.executions.read_events = gone  # type: ignore[method-assign]
        with pytest.raises(ExecutionNotFound):
            await anext(watch)


async def test_an_end_between_two_looks_is_not_missed(world: World) -> None:
    """The log ends after the watcher found nothing new and before it asks whether that was all."""
    log = await begun(world)
    storage = world.storage
    assert isinstance(storage, HookedStorage)

    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(log.watch()) as watch:
        assert len(await anext(watch)) == 2
        storage.executions.wait_for_events = woken_for_nothing  # type: ignore[method-assign]
        before = storage.executions.read

        async def ended_before(execution_id: str) -> Execution | None:
            storage.executions.read = before  # type: ignore[method-assign]
            await log.end()
            return await before(execution_id)

        storage.executions.read = ended_before  # type: ignore[method-assign]
        assert [event.kind for event in await anext(watch)] == ["completed"]


async def test_a_watcher_that_keeps_up_asks_for_the_execution_once(world: World) -> None:
    """To ask takes a thread and the medium: with many watchers that is what they would wait for."""
    log = await begun(world)
    storage = world.storage
    assert isinstance(storage, HookedStorage)
    before, asked = storage.executions.read, 0

    async def counted(execution_id: str) -> Execution | None:
        nonlocal asked
        asked += 1
        return await before(execution_id)

    storage.executions.read = counted  # type: ignore[method-assign]
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(log.watch()) as watch:
        await anext(watch)
        for _ in range(5):
            following = asyncio.ensure_future(anext(watch))
            await turns()
            await log.texts(1)
            assert len(await following) == 1
    assert asked == 1


async def test_a_watcher_that_does_not_read_holds_nobody_up(world: World) -> None:
    log = await begun(world)
    async with aclosing(log.watch()) as slow:
        await anext(slow)
        fast = asyncio.ensure_future(collect(log.watch()))
        await asyncio.wait_for(log.texts(1000), DEADLINE_SECONDS)
        await log.end()
        assert await fast == list(range(1, 1004))
        rest = [event.sequence async for batch in slow for event in batch]
        assert rest == list(range(3, 1004))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 300)),
        st.tuples(st.just("watch"), st.integers(0, 100)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(actions=ACTIONS, late=st.integers(0, 100))
def test_watchers_attached_at_any_point_see_every_event_once(actions: list[tuple[str, int]], late: int) -> None:
    async def play() -> None:
        log = await begun(make_world())
        watching: list[tuple[int, asyncio.Task[list[int]]]] = []

        def attach(percent: int) -> None:
            after = log.last * percent // 100
            watching.append((after, asyncio.ensure_future(collect(log.watch(after)))))

        for action, number in actions:
            if action == "append":
                await log.texts(number)
            elif action == "watch":
                attach(number)
            else:
                await turns(number)
        await log.end()
        attach(late)
        for after, watch in watching:
            assert await watch == list(range(after + 1, log.last + 1))

    asyncio.run(play())
