"""What a run reserves: from the room that the dead took, and whatever becomes of its caller meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Literal

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import BudgetUsedUp
from cloutagent_server.domain.execution import Execution, ExecutionOptions
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import Amount, LedgerCall, LedgerTotals, Reservation, Settlement, Window
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits, Project
from cloutagent_server.engine.base import CallEnd, CallRefused
from cloutagent_server.service import budgets
from cloutagent_server.service.budgets import RunBudget, Turns, UnboundedInput
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.storage.memory import MemoryStorage
from cloutagent_server.storage.memory.ledger import MemoryLedger
from tests.support import builders
from tests.support.fake_engine import FakeEngine, answer, ask, planned, report
from tests.support.fake_prices import MODEL, FakePriceList
from tests.support.service_world import DEADLINE_SECONDS, draft, make_world

PRICES = FakePriceList()


class SlowLedger(MemoryLedger):
    """A ledger that stores a reservation, and says so when it is let.

    Attributes:
        stored: Set when a reservation is stored and nobody knows it yet.
        go_on: Lets `reserve` return.
        waited: Set when somebody waits for room.
    """

    def __init__(self, ledger: MemoryLedger) -> None:
        super().__init__(ledger._records)
        self.stored, self.go_on, self.waited = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def reserve(
        self,
        project_id: str,
        now: datetime,
        decide: Callable[[LedgerTotals], Reservation | None],
        storing: Callable[[], None] = lambda: None,
    ) -> LedgerTotals:
        totals = await super().reserve(project_id, now, decide, storing)
        if totals.open:
            return totals
        self.stored.set()
        await self.go_on.wait()
        return totals

    async def wait_for_settlement(self, project_id: str, version: int) -> None:
        self.waited.set()
        await super().wait_for_settlement(project_id, version)


class SeenTurn(asyncio.Semaphore):
    """A turn that says when somebody asks for it who must wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def acquire(self) -> Literal[True]:
        if self.locked():
            self.asked.set()
        return await super().acquire()


class Scene:
    """A project with a budget, and runs of it that take turns."""

    def __init__(self, storage: MemoryStorage, project: Project) -> None:
        self.storage = storage
        self.project = project
        self.turns = Turns()

    @classmethod
    async def made(cls, max_tokens: int) -> Scene:
        storage = MemoryStorage()
        budget = Budget(total=BudgetLimit(max_tokens, None))
        project = await storage.projects.create(replace(draft(limits=Limits()), budget=budget), builders.credential())
        return cls(storage, project)

    async def execution(self) -> Execution:
        return await self.storage.executions.create(
            builders.execution(self.project.id, agent=self.project.agent, limits=self.project.limits)
        )

    async def run(self) -> RunBudget:
        return RunBudget(await self.execution(), self.storage, PRICES, CostTracker(PRICES), self.turns)

    async def reserve_for(self, execution_id: str, tokens: int) -> Reservation:
        """What a server reserved that could not settle it any more."""
        usage = TokenUsage(tokens - 1, 1, MODEL)
        call = Reservation(execution_id, new_id(), usage, PRICES.cost(usage), timestamps.now())
        await self.storage.ledger.reserve(self.project.id, call.time, lambda _: call)
        return call

    async def totals(self) -> LedgerTotals:
        return await self.storage.ledger.totals(self.project.id, timestamps.now())

    async def settled(self, calls: int) -> None:
        """Return once so many calls have been settled."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (version := (await self.totals()).version) < calls:
                await self.storage.ledger.wait_for_settlement(self.project.id, version)


async def test_what_the_dead_left_reserved_is_settled_in_full_for_whoever_needs_the_room() -> None:
    scene = await Scene.made(max_tokens=1400)
    ended, alive = await scene.execution(), await scene.execution()
    await scene.storage.executions.append(builders.events(ended.id, builders.payloads_of_a_run()))
    left = [await scene.reserve_for(ended.id, 500), await scene.reserve_for(new_id(), 400)]
    under_way = await scene.reserve_for(alive.id, 100)

    reserving = asyncio.ensure_future((await scene.run()).reserve(planned(MODEL, 500, input_tokens=100)))
    await scene.settled(len(left))
    between = await scene.totals()
    assert dict(between.open) == {under_way.call_id: under_way}, "what is alive is waited for"
    assert between.total.settled == left[0].amount.plus(left[1].amount)
    for call in left:
        (found,) = await scene.storage.ledger.calls(scene.project.id, call.execution_id, call.time)
        assert found == LedgerCall(call, Settlement.in_full(call, PRICES.version, PRICES.model(MODEL)))
    assert not reserving.done()

    used = TokenUsage(49, 1, MODEL)
    await scene.storage.ledger.settle(
        scene.project.id, Settlement(under_way.call_id, used, PRICES.cost(used), PRICES.version)
    )
    assert await asyncio.wait_for(reserving, DEADLINE_SECONDS) == 1400 - 900 - 50 - 100


async def test_who_waits_for_room_finds_what_is_left_behind_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "LOOK_SECONDS", 0.01)
    scene = await Scene.made(max_tokens=1000)
    ledger = scene.storage._ledger = SlowLedger(scene.storage.ledger)
    ledger.go_on.set()
    dying = await scene.execution()
    left = await scene.reserve_for(dying.id, 600)
    reserving = asyncio.ensure_future((await scene.run()).reserve(planned(MODEL, 900, input_tokens=100)))
    await asyncio.wait_for(ledger.waited.wait(), DEADLINE_SECONDS)
    assert left.call_id in (await scene.totals()).open
    # Its end is stored and its calls are not: the storage took no writes between.
    await scene.storage.executions.append(builders.events(dying.id, builders.payloads_of_a_run()))
    assert await asyncio.wait_for(reserving, DEADLINE_SECONDS) == 300


async def test_what_is_decided_is_told_while_it_is_stored() -> None:
    scene = await Scene.made(max_tokens=1000)
    ledger = scene.storage._ledger = SlowLedger(scene.storage.ledger)
    decided: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    call = replace(planned(MODEL, 500, input_tokens=100), decided=decided.set_result)
    reserving = asyncio.ensure_future((await scene.run()).reserve(call))
    assert await asyncio.wait_for(decided, DEADLINE_SECONDS) == 500
    assert not reserving.done()
    ledger.go_on.set()
    assert await asyncio.wait_for(reserving, DEADLINE_SECONDS) == 500


async def test_room_that_is_there_is_taken_without_a_look_at_the_dead() -> None:
    scene = await Scene.made(max_tokens=1400)
    left = await scene.reserve_for(new_id(), 400)
    assert await (await scene.run()).reserve(planned(MODEL, 500, input_tokens=100)) == 500
    assert left.call_id in (await scene.totals()).open


async def counted(tokens: int | None) -> int | None:
    """What the vendor counts."""
    return tokens


@pytest.mark.parametrize(
    ("unbounded", "said"),
    [
        ("a document by its address", "a model call with a document by its address can use more than can be told"),
        (None, "the vendor did not count the input of a model call whose bytes do not bound it"),
    ],
)
async def test_a_call_whose_input_nothing_bounds_is_refused(unbounded: str | None, said: str) -> None:
    scene = await Scene.made(max_tokens=1000)
    call = replace(planned(MODEL, 100), input_bound=None, count_input=lambda: counted(None), unbounded=unbounded)
    with pytest.raises(UnboundedInput, match=said):
        await (await scene.run()).reserve(call)
    assert not (await scene.totals()).open


@pytest.mark.parametrize(
    ("bound", "count", "reserved"), [(300, 200, 200), (300, 400, 300), (300, None, 300), (None, 200, 200)]
)
async def test_the_smaller_of_bound_and_count_is_reserved(bound: int | None, count: int | None, reserved: int) -> None:
    scene = await Scene.made(max_tokens=1000)
    call = replace(planned(MODEL, 900), input_bound=bound, count_input=lambda: counted(count))
    assert await asyncio.wait_for((await scene.run()).reserve(call), DEADLINE_SECONDS) == 1000 - reserved
    usage = (await scene.totals()).open[call.id].usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (reserved, 1000 - reserved)


async def test_a_turn_that_was_waited_for_is_given_back() -> None:
    scene = await Scene.made(max_tokens=1000)
    turn = scene.turns._turns[scene.project.id] = SeenTurn()
    await turn.acquire()
    reserving = asyncio.ensure_future((await scene.run()).reserve(planned(MODEL, 100, input_tokens=100)))
    await asyncio.wait_for(turn.asked.wait(), DEADLINE_SECONDS)
    assert not (await scene.totals()).open
    turn.release()
    assert await asyncio.wait_for(reserving, DEADLINE_SECONDS) == 100
    assert not turn.locked()


@pytest.mark.parametrize("moment", ["its turn", "its reservation", "the count", "room"])
async def test_a_caller_that_leaves_while_it_waits_leaves_nothing_reserved(moment: str) -> None:
    scene = await Scene.made(max_tokens=1000)
    ledger = scene.storage._ledger = SlowLedger(scene.storage.ledger)
    turn = scene.turns._turns[scene.project.id] = SeenTurn()
    counting = asyncio.Event()

    async def count() -> int:
        counting.set()
        await asyncio.Event().wait()
        return 1

    call = replace(planned(MODEL, 100, input_tokens=100), count_input=count)
    held: Reservation | None = None
    if moment == "its turn":
        await turn.acquire()
    elif moment == "the count":
        call = replace(call, input_bound=None)
    elif moment == "room":
        ledger.go_on.set()
        held = await scene.reserve_for((await scene.execution()).id, 1000)
        call = planned(MODEL, 100, input_tokens=100)
    reached = {"its turn": turn.asked, "its reservation": ledger.stored, "the count": counting, "room": ledger.waited}
    run = await scene.run()
    reserving = asyncio.ensure_future(run.reserve(call))
    await asyncio.wait_for(reached[moment].wait(), DEADLINE_SECONDS)
    reserving.cancel()
    await asyncio.wait({reserving}, timeout=DEADLINE_SECONDS)
    assert reserving.cancelled()
    ledger.go_on.set()
    if moment == "its turn":
        turn.release()

    # The engine tells the end of every call that it asked for: this one did not go out.
    assert await run.settle(call.id, CallEnd.FREE, None) is None
    if held is not None:
        nothing = TokenUsage(0, 0, MODEL)
        await ledger.settle(scene.project.id, Settlement(held.call_id, nothing, Decimal(0), PRICES.version))
    totals = await scene.totals()
    assert (dict(totals.open), totals.total) == ({}, Window(Amount(), Amount()))
    again = (await scene.run()).reserve(planned(MODEL, 900, input_tokens=100))
    assert await asyncio.wait_for(again, DEADLINE_SECONDS) == 900, "all is free, and so is the turn"


@pytest.mark.parametrize("moment", ["its turn", "room"])
async def test_a_run_that_is_stopped_waits_no_longer(moment: str) -> None:
    scene = await Scene.made(max_tokens=1000)
    ledger = scene.storage._ledger = SlowLedger(scene.storage.ledger)
    ledger.go_on.set()
    turn = scene.turns._turns[scene.project.id] = SeenTurn()
    if moment == "its turn":
        await turn.acquire()
    else:
        await scene.reserve_for((await scene.execution()).id, 1000)
    run = await scene.run()
    reserving = asyncio.ensure_future(run.reserve(planned(MODEL, 100, input_tokens=100)))
    reached = turn.asked if moment == "its turn" else ledger.waited
    await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
    before = (await scene.totals()).total
    run.stop()
    with pytest.raises(CallRefused, match="is being stopped"):
        await asyncio.wait_for(reserving, DEADLINE_SECONDS)
    assert (await scene.totals()).total == before
    assert turn.locked() is (moment == "its turn"), "only who holds the turn gives it back"


@pytest.mark.parametrize("limit", [BudgetLimit(None, Decimal("0.0006")), BudgetLimit(10_000, Decimal("0.0006"))])
async def test_a_start_is_refused_when_a_budget_of_cost_is_used_up(limit: BudgetLimit) -> None:
    steps = [ask(40), report(0, 40), answer("done")]
    world = make_world(engine=FakeEngine(lambda prompt: steps))
    project = await world.storage.projects.create(replace(draft(), budget=Budget(monthly=limit)), builders.credential())
    assert (await world.run(project)).usage.total_cost == Decimal("0.0006")
    request = ExecutionRequest(project.id, "hello", ExecutionOptions())
    for ask_for in (world.executions.start, world.executions.dry_run):
        with pytest.raises(BudgetUsedUp) as caught:
            await ask_for(request)
        said = caught.value.metadata
        assert (said["scope"], said["exceeded"]) == ("monthly", "cost")
        assert [Decimal(said[name]) for name in ("limit", "used", "left")] == [limit.max_cost, limit.max_cost, 0]
