"""The queue: order, bounds, withdrawal, closing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import QueueFull, ServerUnavailable
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Limits
from cloutagent_server.service.queue import RunQueue
from tests.support.service_world import agent


def execution(project_id: str | None = None) -> Execution:
    return Execution(new_id(), project_id or new_id(), "p", agent(), Limits(), timestamps.now())


class Runs:
    """What the queue has started, and a way to end it."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self._gates: dict[str, asyncio.Event] = {}

    async def run(self, one: Execution) -> None:
        """Run until `end`."""
        self.started.append(one.id)
        self.running.add(one.id)
        self.most = max(self.most, len(self.running))
        await self._gates.setdefault(one.id, asyncio.Event()).wait()
        self.running.discard(one.id)

    def end(self, execution_id: str) -> None:
        """Let one end."""
        self._gates.setdefault(execution_id, asyncio.Event()).set()


async def turn() -> None:
    """Let everything happen that can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def test_first_come_first_run_within_the_bound(runs: Runs) -> None:
    queue = RunQueue(runs.run, 2, 10)
    all_of_them = [execution() for _ in range(5)]
    ids = [one.id for one in all_of_them]
    for one in all_of_them:
        queue.add(one)
    await turn()
    assert runs.started == ids[:2]
    assert len(queue) == 3
    assert [queue.position_of(one) for one in ids] == [None, None, 0, 1, 2]
    runs.end(ids[1])
    await turn()
    assert runs.started == ids[:3]
    assert [queue.position_of(one) for one in ids[3:]] == [0, 1]
    for execution_id in ids:
        runs.end(execution_id)
    await turn()
    assert runs.started == ids
    assert runs.most == 2
    assert not runs.running


async def test_a_full_queue_refuses(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 2)
    running, *waiting = (execution() for _ in range(3))
    for one in (running, *waiting):
        queue.check_room(new_id())
        queue.add(one)
    with pytest.raises(QueueFull) as caught:
        queue.check_room(new_id())
    assert caught.value.metadata == {"limit": "2", "scope": "server"}
    await turn()
    runs.end(running.id)
    await turn()
    queue.check_room(new_id())
    runs.end(waiting[0].id)
    runs.end(waiting[1].id)
    await turn()


async def test_with_no_waiting_room_a_free_place_still_takes_one(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 0)
    one = execution()
    queue.check_room(new_id())
    queue.add(one)
    with pytest.raises(QueueFull):
        queue.check_room(new_id())
    runs.end(one.id)
    await turn()
    queue.check_room(new_id())


async def test_a_held_place_counts_until_it_is_given_back(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 1)
    with queue.place(new_id()), queue.place(new_id()):
        with pytest.raises(QueueFull), queue.place(new_id()):
            pass
        with pytest.raises(QueueFull):
            queue.check_room(new_id())
    queue.check_room(new_id())


async def test_withdraw_takes_out_only_what_waits(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 10)
    running, gone, last = (execution() for _ in range(3))
    for one in (running, gone, last):
        queue.add(one)
    await turn()
    assert queue.withdraw(gone.id)
    assert not queue.withdraw(gone.id)
    assert not queue.withdraw(running.id)
    assert queue.position_of(last.id) == 0
    runs.end(running.id)
    runs.end(last.id)
    await turn()
    assert runs.started == [running.id, last.id]


async def test_a_closed_queue_starts_nothing_and_lets_the_waiting_be_withdrawn(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 10)
    running, waiting = execution(), execution()
    queue.add(running)
    queue.add(waiting)
    await turn()
    queue.close()
    with pytest.raises(ServerUnavailable):
        queue.check_room(new_id())
    runs.end(running.id)
    await turn()
    assert runs.started == [running.id]
    assert queue.withdraw(waiting.id)


async def test_stop_returns_when_all_that_run_have_ended(runs: Runs) -> None:
    queue = RunQueue(runs.run, 2, 10)
    first, second, waiting = (execution() for _ in range(3))
    for one in (first, second, waiting):
        queue.add(one)
    await turn()
    stopping = asyncio.ensure_future(queue.stop())
    await turn()
    runs.end(first.id)
    await turn()
    assert not stopping.done()
    runs.end(second.id)
    await asyncio.wait_for(stopping, 5)
    assert runs.started == [first.id, second.id]


async def test_stop_of_an_idle_queue_returns_at_once(runs: Runs) -> None:
    await asyncio.wait_for(RunQueue(runs.run, 1, 1).stop(), 5)


async def test_projects_take_turns(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 100)
    greedy, modest = new_id(), new_id()
    many = [execution(greedy) for _ in range(6)]
    for one in many:
        queue.add(one)
    assert queue.next_position(modest) == 0
    few = [execution(modest) for _ in range(2)]
    for one in few:
        queue.add(one)
    expected = [many[0], few[0], many[1], few[1], *many[2:]]
    assert [queue.position_of(one.id) for one in expected] == [None, *range(7)]
    for one in expected:
        runs.end(one.id)
    for _ in expected:
        await turn()
    assert runs.started == [one.id for one in expected]


async def test_a_withdrawn_turn_counts_for_nothing(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 100)
    fickle, other = new_id(), new_id()
    running = execution()
    queue.add(running)
    for _ in range(5):
        one = execution(fickle)
        queue.add(one)
        assert queue.withdraw(one.id)
    mine, theirs = execution(fickle), execution(other)
    queue.add(mine)
    queue.add(theirs)
    assert (queue.position_of(mine.id), queue.position_of(theirs.id)) == (0, 1)
    queue.close()
    runs.end(running.id)
    await queue.stop()


async def test_a_project_runs_no_more_than_it_may_and_others_pass(runs: Runs) -> None:
    queue = RunQueue(runs.run, 3, 100, max_running_of_project=1)
    greedy = new_id()
    first, second, other = execution(greedy), execution(greedy), execution()
    for one in (first, second, other):
        queue.add(one)
    await turn()
    assert runs.started == [first.id, other.id]
    runs.end(first.id)
    await turn()
    assert runs.started == [first.id, other.id, second.id]
    for one in (second, other):
        runs.end(one.id)
    await queue.stop()


async def test_a_project_cannot_fill_the_queue_for_others(runs: Runs) -> None:
    queue = RunQueue(runs.run, 1, 10, max_waiting_of_project=2)
    greedy = new_id()
    all_of_them = [execution(greedy) for _ in range(3)]
    for one in all_of_them:
        queue.check_room(greedy)
        queue.add(one)
    with pytest.raises(QueueFull) as caught:
        queue.check_room(greedy)
    assert caught.value.metadata == {"limit": "2", "scope": "project"}
    queue.check_room(new_id())
    assert queue.withdraw(all_of_them[1].id)
    queue.check_room(greedy)
    queue.close()
    runs.end(all_of_them[0].id)
    await queue.stop()


@settings(max_examples=30)
@given(
    waiting=st.lists(st.integers(0, 3), max_size=40),
    served=st.lists(st.integers(0, 3), max_size=10),
)
def test_nobody_waits_for_more_than_one_turn_of_each_other_project(waiting: list[int], served: list[int]) -> None:
    """Whatever ran before, the n-th of a project has at most n of each other project ahead of it."""

    async def play() -> None:
        runs = Runs()
        queue = RunQueue(runs.run, 1, 1000)
        projects = [new_id() for _ in range(4)]
        queued = [execution(projects[number]) for number in served]
        for one in queued:
            queue.add(one)
        for one in queued:
            runs.end(one.id)
        for _ in queued:
            await turn()
        blocking = execution()
        queue.add(blocking)
        await turn()
        of = {}
        for number in waiting:
            one = execution(projects[number])
            of[one.id] = one.project_id
            queue.add(one)
        order = [of[execution_id] for execution_id in queue.in_order()]
        assert len(order) == len(waiting)
        for place, project_id in enumerate(order):
            ahead = order[:place]
            turns = ahead.count(project_id) + 1
            assert all(ahead.count(other) <= turns + 1 for other in set(ahead))
        queue.close()
        runs.end(blocking.id)
        await queue.stop()

    asyncio.run(play())


@settings(max_examples=30)
@given(
    bound=st.integers(1, 3),
    actions=st.lists(st.sampled_from(["add", "end", "withdraw"]), max_size=30),
    data=st.data(),
)
def test_order_and_bound_hold_whatever_happens(bound: int, actions: list[str], data: st.DataObject) -> None:
    async def play() -> None:
        runs = Runs()
        queue = RunQueue(runs.run, bound, 1000)
        expected: list[str] = []
        for action in actions:
            if action == "add":
                one = execution()
                expected.append(one.id)
                queue.add(one)
            elif action == "end" and runs.running:
                runs.end(data.draw(st.sampled_from(sorted(runs.running))))
            elif action == "withdraw":
                waiting = [one for one in expected if queue.position_of(one) is not None]
                if waiting:
                    gone = data.draw(st.sampled_from(waiting))
                    assert queue.withdraw(gone)
                    expected.remove(gone)
            await turn()
            assert len(runs.running) <= bound
            assert runs.started == expected[: len(runs.started)]
            assert len(queue) == len(expected) - len(runs.started)
            assert len(runs.running) == bound or len(queue) == 0
        for execution_id in expected:
            runs.end(execution_id)
        await queue.stop()

    asyncio.run(play())
