"""No budget is ever passed, not by a token and not by a cent, against the bill that the vendor keeps by itself.

Agents make random calls through the real gateway to a vendor that bills what it likes to forget to tell. The other side
is held too: a run whose every call fits is neither refused nor lowered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import BudgetUsedUp, StorageUnavailable
from cloutagent_server.domain.execution import Execution, ExecutionOptions
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.service import runner
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.billing_vendor import MODELS, BillingVendor, Call
from tests.support.service_world import ENCRYPTION_KEY, agent, draft
from tests.support.wire_agent import WireEngine

PRICES = GenaiPriceList()
DEADLINE_SECONDS = 60.0
FAULTS = ("error", "event", "early_event", "cut", "gone", "hang", "garbage", "no_final")


class DyingStorage(MemoryStorage):
    """Storage of a server that dies: from then on nothing that it does is stored any more."""

    def __init__(self, living: MemoryStorage) -> None:
        self.dead = False
        self._executions = _Dying(living.executions, self)  # type: ignore[assignment]
        self._ledger = _Dying(living.ledger, self)  # type: ignore[assignment]
        self._projects = living.projects
        self._secrets = living.secrets


class _Dying:
    def __init__(self, inner: object, owner: DyingStorage) -> None:
        self._inner = inner
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        if self._owner.dead and name in ("append", "settle", "reserve"):
            raise StorageUnavailable("dead")
        return getattr(self._inner, name)


@dataclass
class Stage:
    """The vendor and the gateway, which all examples share, and the loop that they live in."""

    loop: asyncio.Runner
    vendor: BillingVendor
    engine: WireEngine
    runs: int = 0
    billed: int = 0


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as loop:
        patch.setattr(runner, "END_RETRY_SECONDS", ())
        vendor = BillingVendor()

        async def start() -> Stage:
            await vendor.start()
            gateway = ModelGateway(vendor.url, "sk-ant-real", PRICES)
            await gateway.start()
            return Stage(loop, vendor, WireEngine(gateway, aiohttp.ClientSession()))

        made = loop.run(start())
        yield made

        async def stop() -> None:
            await made.engine.http.close()
            await made.engine.gateway.stop()
            await vendor.stop()

        loop.run(stop())
        print(f"\nbudgets: {made.runs} runs, {made.billed} calls billed by the vendor, overshoot 0 tokens and 0 USD")


@dataclass(frozen=True)
class Scene:
    """Some runs of one project at the same time. `dies_at` is the call at which the server dies."""

    runs: tuple[tuple[tuple[Call, ...], ...], ...]
    limits: Limits
    budget: Budget
    dies_at: int | None


def calls(*, faults: bool) -> st.SearchStrategy[Call]:
    fault = st.one_of(st.just("none"), st.just("none"), st.sampled_from(FAULTS)) if faults else st.just("none")
    return st.builds(
        Call,
        model=st.sampled_from(MODELS),
        text=st.one_of(st.integers(0, 400), st.just(3000)),
        bytes_a_token=st.sampled_from([1, 3, 4]),
        hidden=st.sampled_from([0, 0, 313, 2000]),
        image=st.sampled_from([0, 0, 0, 1600, 99_990, 230_000]),
        cache=st.sampled_from(["none", "5m", "1h"]),
        read=st.integers(0, 50),
        written=st.sampled_from([0, 20, 50]),
        max_tokens=st.integers(1, 300),
        wants=st.integers(1, 500),
        stream=st.booleans(),
        fault=fault,
        count_fails=st.sampled_from([False] * 15 + [True]) if faults else st.just(False),
    )


def scripts(*, faults: bool) -> st.SearchStrategy[Any]:
    rounds = st.lists(st.lists(calls(faults=faults), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)
    return st.lists(rounds.map(tuple), min_size=1, max_size=3).map(tuple)


# What a limit leaves room for, as a part of all that the calls ask for; None is no limit.
PARTS = st.one_of(st.none(), st.none(), st.floats(0.05, 1.2))
OWN_PARTS = st.floats(0.05, 1.5)


def needed(runs: Sequence[Sequence[Sequence[Call]]]) -> tuple[int, Decimal]:
    """The tokens and the cost of all calls, each with its exact input, at its dearest, and the output it asks for."""
    every = [call for rounds in runs for calls_at_once in rounds for call in calls_at_once]
    tokens = sum(call.input_tokens + call.max_tokens for call in every)
    return tokens, sum((call.price(call.max_tokens, dearest=True) for call in every), Decimal(0))


@st.composite
def tight(draw: st.DrawFn) -> Scene:
    """Runs whose limits leave room for a part of what they ask for."""
    runs = draw(scripts(faults=True))
    tokens, cost = needed(runs)

    def limit(parts: st.SearchStrategy[float | None], tokens: int, cost: Decimal) -> BudgetLimit:
        of_tokens, of_cost = draw(parts), draw(parts)
        return BudgetLimit(
            None if of_tokens is None else max(1, int(tokens * of_tokens)),
            None if of_cost is None else Decimal(str(round(float(cost) * of_cost + 1e-6, 6))),
        )

    own = [limit(OWN_PARTS, *needed([run])) for run in runs]
    largest = Limits(
        max(one.max_tokens or 0 for one in own), max(one.max_cost or Decimal(0) for one in own), timeout=20_000
    )
    budget = Budget(*(limit(PARTS, tokens, cost) for _ in range(3)))
    return Scene(runs, largest, budget, draw(st.one_of(st.none(), st.none(), st.integers(1, 8))))


def fitting(runs: tuple[tuple[tuple[Call, ...], ...], ...]) -> Scene:
    """Limits that leave room for every call by its exact input and what it asks for, and for nothing more."""
    own, (tokens, cost) = [needed([run]) for run in runs], needed(runs)
    both = BudgetLimit(tokens, cost)
    limits = Limits(max(tokens for tokens, _ in own), max(cost for _, cost in own), 20_000)
    return Scene(runs, limits, Budget(both, both, both), None)


def service(storage: MemoryStorage, engine: WireEngine) -> ExecutionService:
    return ExecutionService(
        storage, SecretManager(storage.secrets, Keyring(ENCRYPTION_KEY)), engine, PRICES, max_running=3, max_waiting=10
    )


async def play(stage: Stage, scene: Scene) -> tuple[MemoryStorage, Sequence[Execution]]:
    """Run all runs of the scene at the same time; returns what stands afterwards."""
    stage.vendor.bills.clear()
    storage = MemoryStorage()
    dying = DyingStorage(storage)
    project = await storage.projects.create(
        replace(draft(agent=agent(max_tokens=300), limits=scene.limits), budget=scene.budget), builders.credential()
    )
    stage.engine.scripts = {f"run {number}": rounds for number, rounds in enumerate(scene.runs)}
    seen = 0

    def on_call() -> None:
        nonlocal seen
        seen += 1
        dying.dead = dying.dead or seen == scene.dies_at

    stage.vendor.on_call = on_call
    working = service(dying, stage.engine)
    started: list[str] = []
    for prompt in stage.engine.scripts:
        try:
            execution, _ = await working.start(ExecutionRequest(project.id, prompt, ExecutionOptions()))
            started.append(execution.id)
        except (BudgetUsedUp, StorageUnavailable):
            continue
    async with asyncio.timeout(DEADLINE_SECONDS):
        if scene.dies_at is None:
            for execution_id in started:
                await working.finished(execution_id)
        await working.stop(grace=DEADLINE_SECONDS)
    stage.vendor.on_call = lambda: None
    if dying.dead:
        again = service(storage, stage.engine)
        again._queue.close()
        await again.recover()
    stage.runs += len(started)
    stage.billed += len(stage.vendor.bills)
    found = [await storage.executions.read(execution_id) for execution_id in started]
    return storage, [execution for execution in found if execution is not None]


def check(stage: Stage, scene: Scene) -> None:
    storage, executions = stage.loop.run(play(stage, scene))
    bills = stage.vendor.bills
    for execution in executions:
        own = [bill for bill in bills if bill.run == execution.id]
        tokens, cost = sum(bill.tokens for bill in own), sum((bill.cost for bill in own), Decimal(0))
        assert tokens <= scene.limits.max_tokens
        assert cost <= scene.limits.max_cost
        if execution.status.terminal:
            assert execution.usage.total_tokens >= tokens
            assert execution.usage.total_tokens == tokens or execution.usage.estimated
            assert float(execution.usage.total_cost) >= float(cost) * (1 - 1e-12)
        else:
            assert not own
    tokens, cost = sum(bill.tokens for bill in bills), sum((bill.cost for bill in bills), Decimal(0))
    for limit in (scene.budget.daily, scene.budget.monthly, scene.budget.total):
        assert limit.max_tokens is None or tokens <= limit.max_tokens
        assert limit.max_cost is None or cost <= limit.max_cost
    if executions:
        totals = stage.loop.run(storage.ledger.totals(executions[0].project_id, timestamps.now()))
        assert not totals.open
        assert totals.total.settled.tokens >= tokens and totals.total.settled.cost >= cost


def check_fitting(stage: Stage, runs: Any) -> None:
    scene = fitting(
        tuple(tuple(tuple(replace(c, max_tokens=min(c.max_tokens, 300)) for c in r) for r in x) for x in runs)
    )
    _, executions = stage.loop.run(play(stage, scene))
    assert [execution.status.value for execution in executions] == ["completed"] * len(runs)
    assert not any(execution.usage.estimated for execution in executions)
    made = stage.vendor.bills
    assert len(made) == sum(len(calls_at_once) for rounds in scene.runs for calls_at_once in rounds)
    assert all(bill.asked == bill.call.max_tokens for bill in made)


def sized(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


@sized(130)
@given(scene=tight())
def test_no_budget_is_passed(stage: Stage, scene: Scene) -> None:
    check(stage, scene)


@sized(30)
@given(runs=scripts(faults=False))
def test_what_fits_is_neither_refused_nor_lowered(stage: Stage, runs: Any) -> None:
    check_fitting(stage, runs)


@pytest.mark.full
@pytest.mark.timeout(1_800)
@sized(2300)
@given(scene=tight())
def test_no_budget_is_passed_in_thousands_of_runs(stage: Stage, scene: Scene) -> None:
    check(stage, scene)


@pytest.mark.full
@pytest.mark.timeout(1_800)
@sized(400)
@given(runs=scripts(faults=False))
def test_what_fits_is_neither_refused_nor_lowered_in_hundreds_of_runs(stage: Stage, runs: Any) -> None:
    check_fitting(stage, runs)
