"""One run: its events in order, its limits, and exactly one end whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import ExceededLimit, TokenUsage, Usage
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    FailureReason,
    LimitWarning,
    Message,
    Payload,
    SdkCost,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)
from cloutagent_server.domain.execution import (
    MAX_RESULT_BYTES,
    Execution,
    ExecutionOptions,
    ExecutionResult,
    Status,
)
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import Reservation, Settlement
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits, ProjectChanges
from cloutagent_server.engine.base import CallRefused, PlannedCall, RunListener
from cloutagent_server.service import run_redaction, runner
from cloutagent_server.service.budgets import Turns
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.prompts import FilledPrompts
from cloutagent_server.service.redaction import REDACTED, RedactedStream, Redactor
from cloutagent_server.service.runner import MOST_WAITING_TEXTS, SDK_COST_TOLERANCE, Run
from tests.support import builders
from tests.support import fake_engine as fake
from tests.support.fake_engine import FakeEngine, FakeExecutor, Step
from tests.support.fake_prices import CHEAP_MODEL, FREE_MODEL, MODEL, FakePriceList
from tests.support.hooked_storage import HookedStorage
from tests.support.service_world import DEADLINE_SECONDS, World, make_world, of_kind

SECRET = "sk-secret-1"
TERMINAL = {"completed", "failed", "cancelled"}


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a run is tried again without a pause."""
    monkeypatch.setattr(runner, "END_RETRY_SECONDS", (0.0, 0.0))


@dataclass
class Driven:
    """A run that can be driven without a queue, and what it stands on."""

    world: World
    storage: HookedStorage
    run: Run
    execution: Execution
    tracker: CostTracker

    @property
    def executor(self) -> FakeExecutor:
        """The run's executor."""
        return self.world.engine.executors[self.execution.id]

    async def drive(self) -> list[Payload]:
        """Drive the run to its end; returns what its events say, of which only the last one is terminal."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.run.drive()
        return await self.payloads()

    async def payloads(self) -> list[Payload]:
        """What the events of the ended run say, of which only the last one is terminal."""
        payloads = await self.world.payloads(self.execution.id)
        assert [payload.kind in TERMINAL for payload in payloads] == [False] * (len(payloads) - 1) + [True]
        return payloads

    async def failure(self) -> tuple[FailureReason, str, ExceededLimit | None]:
        """Why the run failed."""
        end = (await self.drive())[-1]
        assert isinstance(end, Failed)
        return end.failure.reason, end.failure.message, end.failure.exceeded


async def driven(
    *steps: Step,
    limits: Limits | None = None,
    secrets: dict[str, str] | None = None,
    engine: FakeEngine | None = None,
    model: str = MODEL,
) -> Driven:
    """A run of these steps."""
    storage = HookedStorage()
    world = make_world(engine=engine or FakeEngine(lambda prompt: steps), storage=storage)
    project = await world.project(limits=limits or Limits(), model=model)
    execution = await storage.executions.create(
        builders.execution(project.id, agent=project.agent, limits=project.limits, variables={})
    )
    prompts = FilledPrompts("the prompt", execution.agent, secrets or {})
    tracker = CostTracker(FakePriceList())
    run = Run(execution, prompts, storage, world.engine, FakePriceList(), tracker, Turns())
    return Driven(world, storage, run, execution, tracker)


def kinds(payloads: Sequence[Payload]) -> list[str]:
    return [payload.kind for payload in payloads]


async def test_events_come_in_the_order_of_what_happened() -> None:
    made = await driven(
        fake.report(100, 1, "a"),
        fake.write("I look."),
        fake.report(100, 20, "a"),
        fake.message("I look."),
        fake.use_tool("t1", "Read", {"path": "notes"}),
        fake.tool_answers("t1", "no such file", is_error=True),
        fake.report(200, 30, "b"),
        fake.message("Nothing there."),
        fake.answer("Nothing there."),
    )
    payloads = await made.drive()
    assert kinds(payloads) == [
        "started",
        "token_usage",
        "text_delta",
        "token_usage",
        "message",
        "tool_use",
        "tool_result",
        "token_usage",
        "message",
        "completed",
    ]
    assert of_kind(payloads, ToolUse) == [ToolUse("t1", "Read", {"path": "notes"})]
    assert of_kind(payloads, ToolResult) == [ToolResult("t1", "no such file", True)]
    end = payloads[-1]
    assert isinstance(end, Completed)
    cost = Decimal(300 * 3 + 50 * 15) / 1_000_000
    assert (end.result, end.usage) == ("Nothing there.", Usage(300, 50, 0, 0, cost, 2))
    assert 0 <= end.duration < DEADLINE_SECONDS * 1000
    assert (await made.world.read(made.execution.id)).status is Status.COMPLETED


async def test_the_agent_gets_the_filled_prompts_and_the_limits_of_the_execution() -> None:
    made = await driven(limits=Limits(7, Decimal("0.5"), 60_000))
    await made.drive()
    assert made.executor.config == made.execution.agent
    assert made.executor.prompt == "the prompt"
    assert made.executor.options == ExecutionOptions(7, Decimal("0.5"), 60_000)


async def test_usage_events_carry_totals_and_percentages() -> None:
    made = await driven(
        fake.report(100, 0, "a"),
        fake.report(100, 50, "a"),
        fake.report(50, 0, "b", CHEAP_MODEL),
        limits=Limits(1000, Decimal("0.1")),
    )
    usages = of_kind(await made.drive(), TokenUsed)
    assert [(u.usage.total_tokens, u.usage.model_calls, u.model) for u in usages] == [
        (100, 1, MODEL),
        (150, 1, MODEL),
        (200, 2, CHEAP_MODEL),
    ]
    assert [u.percent_of_token_limit for u in usages] == pytest.approx([10, 15, 20])
    assert [u.percent_of_cost_limit for u in usages] == pytest.approx([0.3, 1.05, 1.1])


async def test_a_usage_without_a_model_is_that_of_the_agents_model() -> None:
    async def report(executor: FakeExecutor) -> None:
        await executor.listener.on_usage("a", TokenUsage(10, 0))

    assert of_kind(await (await driven(report)).drive(), TokenUsed)[0].model == MODEL


async def test_each_limit_is_warned_of_once_at_80_percent() -> None:
    made = await driven(
        fake.report(799, 0, "a"),
        fake.report(800, 0, "a"),
        fake.report(900, 0, "a"),
        fake.report(0, 60, "b"),
        fake.report(0, 80, "b"),
        limits=Limits(1000, Decimal("0.0045")),
    )
    payloads = await made.drive()
    warnings = of_kind(payloads, LimitWarning)
    assert [(warning.limit, warning.percent) for warning in warnings] == [
        (ExceededLimit.TOKENS, pytest.approx(80)),
        (ExceededLimit.COST, pytest.approx(80)),
    ]
    assert kinds(payloads) == [
        *("started", "token_usage", "token_usage", "limit_warning"),
        *("token_usage", "token_usage", "limit_warning", "token_usage", "completed"),
    ]


async def test_a_jump_over_both_limits_warns_of_both_and_then_ends() -> None:
    made = await driven(fake.report(10_000, 10_000), fake.hang(), limits=Limits(1000, Decimal("0.01")))
    payloads = await made.drive()
    assert [warning.limit for warning in of_kind(payloads, LimitWarning)] == [ExceededLimit.TOKENS, ExceededLimit.COST]
    end = payloads[-1]
    assert isinstance(end, Failed) and end.failure.exceeded is ExceededLimit.TOKENS


@pytest.mark.parametrize(
    ("limits", "exceeded", "named"),
    [
        (Limits(max_tokens=1499), ExceededLimit.TOKENS, "token limit of 1499"),
        (Limits(max_cost=Decimal("0.0104")), ExceededLimit.COST, "cost limit of 0.0104 USD"),
    ],
)
async def test_passing_a_limit_ends_the_run_as_failed(limits: Limits, exceeded: ExceededLimit, named: str) -> None:
    made = await driven(fake.report(1000, 500), fake.hang(), limits=limits)
    payloads = await made.drive()
    end = payloads[-1]
    assert isinstance(end, Failed)
    assert (end.failure.reason, end.failure.exceeded) == (FailureReason.LIMIT_EXCEEDED, exceeded)
    assert named in end.failure.message
    assert end.usage == Usage(1000, 500, 0, 0, Decimal("0.0105"), 1)
    assert made.executor.stops == 1


async def test_exactly_the_limits_is_within_them() -> None:
    made = await driven(fake.report(1000, 500), fake.answer("done"), limits=Limits(1500, Decimal("0.0105")))
    payloads = await made.drive()
    assert payloads[-1].kind == "completed"
    assert len(of_kind(payloads, LimitWarning)) == 2


async def test_a_limit_that_was_passed_counts_even_if_the_agent_completes() -> None:
    made = await driven(fake.report(1000, 500), limits=Limits(max_tokens=100))

    async def completes(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        await made.executor.listener.on_usage("a", TokenUsage(1000, 500, MODEL))
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    made.executor.execute = completes  # type: ignore[method-assign]
    reason, _, exceeded = await made.failure()
    assert (reason, exceeded) == (FailureReason.LIMIT_EXCEEDED, ExceededLimit.TOKENS)


@pytest.mark.parametrize(
    ("limits", "used", "asked", "allowed"),
    [
        (Limits(), (0, 0), 4096, 4096),
        (Limits(max_tokens=1000), (600, 100), 4096, 300),
        (Limits(max_tokens=1000), (600, 100), 200, 200),
        (Limits(max_tokens=1000), (600, 399), 4096, 1),
        (Limits(max_cost=Decimal("0.0015")), (0, 40), 4096, 60),
        (Limits(max_cost=Decimal("0.0015")), (0, 99), 4096, 1),
        (Limits(max_tokens=50, max_cost=Decimal("0.0015")), (0, 20), 4096, 30),
    ],
)
async def test_a_call_is_lowered_to_what_the_limits_allow(
    limits: Limits, used: tuple[int, int], asked: int, allowed: int
) -> None:
    made = await driven(fake.report(*used), fake.ask(asked), fake.answer("done"), limits=limits)
    assert (await made.drive())[-1].kind == "completed"
    assert made.executor.allowed == [allowed]


async def test_a_model_that_costs_nothing_is_bound_by_tokens_alone() -> None:
    made = await driven(fake.ask(4096), model=FREE_MODEL, limits=Limits(max_tokens=500))
    await made.drive()
    assert made.executor.allowed == [500]


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        (Limits(max_tokens=100), ExceededLimit.TOKENS),
        (Limits(max_cost=Decimal("0.0015")), ExceededLimit.COST),
        (Limits(max_tokens=100, max_cost=Decimal("0.0015")), ExceededLimit.TOKENS),
    ],
)
async def test_a_call_that_nothing_is_left_for_is_refused_and_ends_the_run(
    limits: Limits, exceeded: ExceededLimit
) -> None:
    made = await driven(fake.report(0, 100), fake.ask(1), fake.answer("done all the same"), limits=limits)
    reason, message, named = await made.failure()
    assert (reason, named) == (FailureReason.LIMIT_EXCEEDED, exceeded)
    assert "ended the run" in message
    assert made.executor.allowed == []


@pytest.mark.parametrize(
    ("limits", "allowed"),
    [
        (Limits(max_tokens=5096), 4096),
        (Limits(max_tokens=5000), 4000),
        # 1,000 input tokens at the price of writing them to the cache, 0.00375 USD, leave 0.003 USD: 200 output tokens.
        (Limits(max_cost=Decimal("0.00675")), 200),
    ],
)
async def test_the_input_of_a_call_is_set_aside_before_its_output(limits: Limits, allowed: int) -> None:
    made = await driven(fake.ask(4096, input_tokens=1000, input_bound=9000), limits=limits)
    await made.drive()
    assert made.executor.allowed == [allowed]


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        (Limits(max_tokens=1000), ExceededLimit.TOKENS),
        (Limits(max_cost=Decimal("0.003")), ExceededLimit.COST),
        (Limits(max_tokens=1000, max_cost=Decimal("0.003")), ExceededLimit.TOKENS),
        (Limits(max_tokens=1001, max_cost=Decimal("0.003")), ExceededLimit.COST),
    ],
)
async def test_a_call_whose_input_does_not_fit_is_refused(limits: Limits, exceeded: ExceededLimit) -> None:
    made = await driven(fake.ask(1, input_tokens=1000), limits=limits)
    reason, _, named = await made.failure()
    assert (reason, named) == (FailureReason.LIMIT_EXCEEDED, exceeded)


async def test_input_that_fits_by_its_bound_is_not_counted() -> None:
    made = await driven(fake.ask(10, input_tokens=1_000_000, input_bound=90), limits=Limits(max_tokens=100))
    await made.drive()
    assert made.executor.allowed == [10]


async def test_a_call_of_a_run_that_is_being_stopped_is_refused() -> None:
    made = await driven()
    made.run.cancel()
    await made.executor.initialize(made.execution.agent)
    with pytest.raises(Exception, match="being stopped"):
        await made.executor.listener.before_call(fake.planned(MODEL, 1))
    await made.drive()


async def test_timeout_ends_the_run_as_failed() -> None:
    made = await driven(fake.report(10, 1), fake.hang(), limits=Limits(timeout=20))
    payloads = await made.drive()
    end = payloads[-1]
    assert isinstance(end, Failed)
    assert (end.failure.reason, end.usage.total_tokens) == (FailureReason.TIMEOUT, 11)
    assert end.duration >= 20


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
async def test_an_agent_that_stops_without_a_word_failed(status: Status) -> None:
    made = await driven(fake.end_without_result(status))
    reason, message, _ = await made.failure()
    assert (reason, message) == (FailureReason.AGENT_ERROR, "the agent stopped without a result")


async def test_a_completion_without_text_has_an_empty_result() -> None:
    end = (await (await driven(fake.end_without_result(Status.COMPLETED))).drive())[-1]
    assert isinstance(end, Completed) and end.result == ""


async def test_a_failure_of_the_model_is_passed_on() -> None:
    made = await driven(fake.report(10, 1), fake.fail(FailureReason.MODEL_ERROR, "overloaded"))
    assert await made.failure() == (FailureReason.MODEL_ERROR, "overloaded", None)


# The SDK's own figure of the cost.

EXACT = Decimal(100 * 3 + 20 * 15) / 1_000_000
FIGURES = {
    "equal": (EXACT, False),
    "as much more as is tolerated": (EXACT + SDK_COST_TOLERANCE, False),
    "as much less as is tolerated": (EXACT - SDK_COST_TOLERANCE, False),
    "more": (EXACT + SDK_COST_TOLERANCE + Decimal("1e-9"), True),
    "less": (EXACT - SDK_COST_TOLERANCE - Decimal("1e-9"), True),
    "nothing": (Decimal(0), True),
    "none": (None, None),
}


@pytest.mark.parametrize(("said", "differs"), FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("kind", ["completed", "failed", "limit_exceeded", "cancelled", "interrupted"])
async def test_the_sdks_figure_stands_beside_ours_in_every_end(
    kind: str, said: Decimal | None, differs: bool | None
) -> None:
    ends = {
        "completed": fake.answer("done", said),
        "failed": fake.fail(FailureReason.MODEL_ERROR, "overloaded", said),
        "limit_exceeded": fake.answer("done", said),
    }

    async def whole_run(executor: FakeExecutor) -> None:
        # One step, so that the agent ends with its figure before a stop reaches it.
        await fake.report(100, 20)(executor)
        if kind == "cancelled":
            made.run.cancel()
        if kind == "interrupted":
            made.run.interrupt()
        await ends.get(kind, fake.end_without_result(Status.CANCELLED, said))(executor)

    made = await driven(whole_run, limits=Limits(max_tokens=119) if kind == "limit_exceeded" else Limits())
    last = (await made.drive())[-1]
    assert isinstance(last, Completed | Failed | Cancelled)
    assert last.kind == {"limit_exceeded": "failed", "interrupted": "failed"}.get(kind, kind)
    assert last.usage.total_cost == EXACT
    assert last.sdk_cost == (None if said is None or differs is None else SdkCost(said, differs))


# Cancelling and interrupting, in every phase.

ENDS = [(Run.cancel, "cancelled"), (Run.interrupt, "failed")]


def assert_end(end: Payload, kind: str) -> None:
    assert end.kind == kind
    if isinstance(end, Failed):
        assert end.failure.reason is FailureReason.INTERRUPTED
    else:
        assert isinstance(end, Cancelled)


@pytest.mark.parametrize(("end_it", "kind"), ENDS)
async def test_ending_before_the_drive(end_it: Callable[[Run], None], kind: str) -> None:
    made = await driven(fake.report(10, 1))
    end_it(made.run)
    payloads = await made.drive()
    assert kinds(payloads) == ["started", kind]
    assert_end(payloads[-1], kind)
    assert made.executor.ended.is_set(), "execute follows initialize, to release what that took"


@pytest.mark.parametrize(("end_it", "kind"), ENDS)
async def test_ending_while_the_agent_starts(end_it: Callable[[Run], None], kind: str) -> None:
    engine = FakeEngine()
    engine.initialize_gate = asyncio.Event()
    made = await driven(engine=engine)
    driving = asyncio.ensure_future(made.drive())
    await made.world.until(made.execution.id, Status.RUNNING)
    end_it(made.run)
    engine.initialize_gate.set()
    payloads = await driving
    assert kinds(payloads) == ["started", kind]
    assert_end(payloads[-1], kind)
    assert made.executor.ended.is_set(), "execute follows initialize, to release what that took"


@pytest.mark.parametrize(("end_it", "kind"), ENDS)
async def test_ending_while_the_agent_runs(end_it: Callable[[Run], None], kind: str) -> None:
    reached = asyncio.Event()
    made = await driven(fake.report(10, 1), fake.write("half a wo"), fake.signal(reached), fake.hang())
    driving = asyncio.ensure_future(made.drive())
    await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
    end_it(made.run)
    end_it(made.run)
    payloads = await driving
    assert kinds(payloads) == ["started", "token_usage", "text_delta", kind]
    assert_end(payloads[-1], kind)
    assert isinstance(payloads[-1], Cancelled | Failed) and payloads[-1].usage.total_tokens == 11
    assert made.executor.stops == 1


@pytest.mark.parametrize(("end_it", "kind"), ENDS)
async def test_ending_after_the_end_changes_nothing(end_it: Callable[[Run], None], kind: str) -> None:
    made = await driven(fake.answer("done"))
    payloads = await made.drive()
    end_it(made.run)
    await asyncio.sleep(0)
    assert await made.payloads() == payloads
    assert payloads[-1].kind == "completed"


async def test_a_run_that_completes_before_the_stop_reaches_it_is_completed() -> None:
    made = await driven()

    async def completes(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        made.run.cancel()
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    made.executor.execute = completes  # type: ignore[method-assign]
    end = (await made.drive())[-1]
    assert isinstance(end, Completed) and end.result == "done"


async def test_cancel_wins_over_interrupt() -> None:
    made = await driven(fake.hang())
    made.run.interrupt()
    made.run.cancel()
    assert (await made.drive())[-1].kind == "cancelled"


async def test_a_passed_limit_wins_over_cancel() -> None:
    made = await driven(fake.report(1000, 500), fake.hang(), limits=Limits(max_tokens=10))

    async def cancel_then_store(events: Sequence[Event]) -> None:
        if isinstance(events[0].payload, TokenUsed):
            made.run.cancel()

    made.storage.executions.before_append = cancel_then_store
    assert (await made.failure())[0] is FailureReason.LIMIT_EXCEEDED


async def test_a_stop_that_raises_is_logged_and_the_run_keeps_its_end(caplog: pytest.LogCaptureFixture) -> None:
    made = await driven(fake.answer("done"))

    async def stop() -> None:
        raise RuntimeError("cannot stop")

    made.executor.stop = stop  # type: ignore[method-assign]
    made.run.interrupt()
    assert (await made.drive())[-1].kind == "completed"
    assert "stopping a run failed" in caplog.text


# Faults.


@pytest.mark.parametrize(
    "engine_of",
    [
        lambda: FakeEngine(lambda prompt: [fake.report(10, 1), fake.throw(RuntimeError("boom with " + SECRET))]),
        lambda: faulty_start(RuntimeError("boom with " + SECRET)),
    ],
    ids=["execute", "initialize"],
)
async def test_an_exception_of_the_engine_ends_the_run_and_is_not_shown(
    engine_of: Callable[[], FakeEngine], caplog: pytest.LogCaptureFixture
) -> None:
    made = await driven(engine=engine_of())
    reason, message, _ = await made.failure()
    assert reason is FailureReason.AGENT_ERROR
    assert "boom" not in message and SECRET not in message
    assert "run failed" in [record.message for record in caplog.records if record.levelno == logging.ERROR]


def faulty_start(fault: Exception) -> FakeEngine:
    engine = FakeEngine()
    engine.initialize_fault = fault
    return engine


async def test_the_usage_before_a_fault_stays_counted() -> None:
    made = await driven(fake.report(10, 1), fake.throw(RuntimeError("boom")))
    end = (await made.drive())[-1]
    assert isinstance(end, Failed) and end.usage.total_tokens == 11


async def test_a_model_without_a_price_ends_the_run() -> None:
    made = await driven(fake.ask(1, model="gpt-4"))
    assert (await made.failure())[0] is FailureReason.AGENT_ERROR


async def test_an_end_whose_write_is_refused_is_written_again() -> None:
    made = await driven(fake.report(10, 1), fake.answer("done"))
    refused: list[str] = []

    async def refuse_once(events: Sequence[Event]) -> None:
        if events[0].payload.kind == "completed" and not refused:
            refused.append("completed")
            raise StorageUnavailable("disk full at /some/path")

    made.storage.executions.before_append = refuse_once
    end = (await made.drive())[-1]
    assert refused
    assert isinstance(end, Completed)
    assert end.result == "done"


@pytest.mark.parametrize("kind", ["started", "message", "token_usage"])
async def test_a_write_that_fails_once_ends_the_run_as_failed(kind: str) -> None:
    made = await driven(fake.report(10, 1), fake.message("text"), fake.answer("done"))
    refused: list[str] = []

    async def refuse_once(events: Sequence[Event]) -> None:
        if events[0].payload.kind == kind and not refused:
            refused.append(kind)
            raise StorageUnavailable("disk full at /some/path")

    made.storage.executions.before_append = refuse_once
    payloads = await made.drive()
    end = payloads[-1]
    assert refused and isinstance(end, Failed)
    assert "the storage does not take writes now" in end.failure.message
    assert "/some/path" not in end.failure.message
    assert end.duration >= 0


async def test_an_end_that_the_storage_refuses_is_stored_when_it_takes_writes_again() -> None:
    made = await driven(fake.report(10, 1), fake.throw(RuntimeError("boom")))
    refusals = 0

    async def refuse_twice(events: Sequence[Event]) -> None:
        nonlocal refusals
        if isinstance(events[0].payload, Failed) and refusals < 2:
            refusals += 1
            raise StorageUnavailable("disk full")

    made.storage.executions.before_append = refuse_twice
    assert (await made.failure())[0] is FailureReason.AGENT_ERROR
    assert refusals == 2


async def test_a_run_that_was_deleted_has_no_end_to_store(caplog: pytest.LogCaptureFixture) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()
    made = await driven(fake.signal(reached), fake.wait_for(go_on), fake.answer("done"))
    driving = asyncio.ensure_future(made.run.drive())
    await asyncio.wait_for(reached.wait(), DEADLINE_SECONDS)
    await made.storage.executions.delete(made.execution.id)
    go_on.set()
    await asyncio.wait_for(driving, DEADLINE_SECONDS)
    assert "the end of a run could not be stored" in caplog.text


async def test_a_storage_that_stays_down_is_logged_and_drive_returns(caplog: pytest.LogCaptureFixture) -> None:
    made = await driven(fake.report(10, 1), fake.write("text"), fake.answer("done"))

    async def refuse(events: Sequence[Event]) -> None:
        if events[0].payload.kind != "started":
            raise StorageUnavailable("disk full")

    made.storage.executions.before_append = refuse
    await asyncio.wait_for(made.run.drive(), DEADLINE_SECONDS)
    assert (await made.world.read(made.execution.id)).status is Status.RUNNING
    assert "the end of a run could not be stored" in caplog.text
    assert kinds(made.run.unstored) == ["failed"]


@pytest.mark.parametrize(
    ("text", "kept", "truncated"),
    [
        ("x" * MAX_RESULT_BYTES, MAX_RESULT_BYTES, False),
        ("x" * (MAX_RESULT_BYTES + 1), MAX_RESULT_BYTES, True),
        ("x" + "é" * (MAX_RESULT_BYTES // 2), 1 + MAX_RESULT_BYTES // 2 - 1, True),
    ],
)
async def test_a_long_result_is_cut_and_says_so(text: str, kept: int, truncated: bool) -> None:
    made = await driven(fake.message(text), fake.answer(text))
    payloads = await made.drive()
    end = payloads[-1]
    assert isinstance(end, Completed)
    assert (end.result, end.truncated) == (text[:kept], truncated)
    assert Message(text) in payloads
    assert (await made.world.read(made.execution.id)).result_truncated is truncated


async def test_an_engine_that_gives_up_a_report_half_way_does_not_lose_the_end() -> None:
    """An engine that is stopped may cancel what it tells its listener while the event is being stored."""
    made = await driven()
    storing, stored = asyncio.Event(), asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        if isinstance(events[0].payload, Message):
            storing.set()
            await stored.wait()

    async def gives_up(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        told = asyncio.ensure_future(made.executor.listener.on_output(Message("text")))
        await storing.wait()
        told.cancel()
        await asyncio.wait([told])
        stored.set()
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    made.executor.execute = gives_up  # type: ignore[method-assign]
    made.storage.executions.after_append = slow
    assert kinds(await made.drive()) == ["started", "message", "completed"]


async def test_text_that_comes_while_one_is_written_is_written_together() -> None:
    made = await driven()
    writing, go_on = asyncio.Event(), asyncio.Event()
    writes: list[list[str]] = []

    async def slow(events: Sequence[Event]) -> None:
        writes.append([event.payload.kind for event in events])
        if writes[-1] == ["text_delta"]:
            writing.set()
            await go_on.wait()

    async def writes_fast(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        listener = made.executor.listener
        await listener.on_output(TextDelta("a"))
        await writing.wait()
        for text in "bcd":
            await asyncio.wait_for(listener.on_output(TextDelta(text)), DEADLINE_SECONDS)
        go_on.set()
        await listener.on_output(Message("abcd"))
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "abcd")

    made.executor.execute = writes_fast  # type: ignore[method-assign]
    made.storage.executions.before_append = slow
    payloads = await made.drive()
    assert writes == [["started"], ["text_delta"], ["text_delta"] * 3 + ["message"], ["completed"]]
    assert "".join(text.text for text in of_kind(payloads, TextDelta)) == "abcd"


async def test_an_agent_waits_when_much_text_waits_to_be_written() -> None:
    made = await driven()
    go_on = asyncio.Event()

    async def slow(events: Sequence[Event]) -> None:
        if events[-1].payload.kind == "text_delta":
            await go_on.wait()

    async def writes_much(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        listener = made.executor.listener
        for _ in range(MOST_WAITING_TEXTS):
            await asyncio.wait_for(listener.on_output(TextDelta("x")), DEADLINE_SECONDS)
        waiting = asyncio.ensure_future(listener.on_output(TextDelta("x")))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        go_on.set()
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    made.executor.execute = writes_much  # type: ignore[method-assign]
    made.storage.executions.before_append = slow
    payloads = await made.drive()
    assert len(of_kind(payloads, TextDelta)) == MOST_WAITING_TEXTS + 1


async def test_text_that_the_storage_refuses_once_is_written_with_what_follows() -> None:
    made = await driven(fake.write("te"), fake.write("xt"), fake.answer("text"))
    refused: list[str] = []

    async def refuse_once(events: Sequence[Event]) -> None:
        if events[0].payload.kind == "text_delta" and not refused:
            refused.append("text_delta")
            raise StorageUnavailable("disk full")

    made.storage.executions.before_append = refuse_once
    payloads = await made.drive()
    assert refused and isinstance(payloads[-1], Completed)
    assert "".join(text.text for text in of_kind(payloads, TextDelta)) == "text"


async def test_text_that_was_never_written_is_kept_with_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "END_RETRY_SECONDS", ())
    made = await driven(fake.write("text"), fake.answer("text"))

    async def refuse(events: Sequence[Event]) -> None:
        if events[-1].payload.kind != "started":
            raise StorageUnavailable("disk full")

    made.storage.executions.before_append = refuse
    async with asyncio.timeout(DEADLINE_SECONDS):
        await made.run.drive()
    assert kinds(made.run.unstored) == ["text_delta", "completed"]


async def test_concurrent_reports_are_written_one_after_the_other() -> None:
    made = await driven()

    async def slow(_: Sequence[Event]) -> None:
        await asyncio.sleep(0)

    async def both(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        listener: RunListener = made.executor.listener
        await asyncio.gather(
            *(listener.on_usage(f"call_{n}", TokenUsage(1, 0, MODEL)) for n in range(10)),
            *(listener.on_output(Message(str(n))) for n in range(10)),
        )
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    made.executor.execute = both  # type: ignore[method-assign]
    made.storage.executions.before_append = made.storage.executions.after_append = slow
    payloads = await made.drive()
    assert len(payloads) == 22
    assert [usage.usage.model_calls for usage in of_kind(payloads, TokenUsed)] == list(range(1, 11))


async def test_what_is_redacted_in_a_thread_stays_in_order_and_an_engine_that_gives_up_does_not_lose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await driven(secrets={"KEY": SECRET})
    entered, go_on = threading.Event(), threading.Event()
    push = RedactedStream.push

    def slow(stream: RedactedStream, piece: str) -> str:
        if SECRET in piece:
            entered.set()
            assert go_on.wait(DEADLINE_SECONDS)
        return push(stream, piece)

    async def tells(prompt: str, options: ExecutionOptions) -> ExecutionResult:
        listener = made.executor.listener
        first = asyncio.ensure_future(listener.on_output(Message(f"it is {SECRET}")))
        await asyncio.to_thread(entered.wait, DEADLINE_SECONDS)
        # The event loop goes on meanwhile, and what is told now waits for its turn.
        later = asyncio.ensure_future(listener.on_output(Message("later")))
        first.cancel()
        await asyncio.wait([first])
        assert not later.done()
        go_on.set()
        await later
        return ExecutionResult(made.execution.id, Status.COMPLETED, Usage(), 5, "done")

    monkeypatch.setattr(RedactedStream, "push", slow)
    made.executor.execute = tells  # type: ignore[method-assign]
    payloads = await made.drive()
    assert of_kind(payloads, Message) == [Message(f"it is {REDACTED}"), Message("later")]


async def test_a_run_has_started_before_its_secrets_are_looked_into_and_the_event_loop_goes_on_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that dies of it has left a run that was started: the next server ends it and does not try again."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(values: tuple[str, ...]) -> Redactor:
        entered.set()
        assert go_on.wait(DEADLINE_SECONDS)
        return Redactor(values)

    monkeypatch.setattr(run_redaction, "Redactor", slow)
    made = await driven(fake.message(f"it is {SECRET}"), fake.answer("done"), secrets={"KEY": SECRET})
    driving = asyncio.ensure_future(made.drive())
    try:
        await asyncio.to_thread(entered.wait, DEADLINE_SECONDS)
        assert kinds(await made.world.payloads(made.execution.id)) == ["started"]
    finally:
        go_on.set()
    assert of_kind(await driving, Message) == [Message(f"it is {REDACTED}")]


async def test_an_ended_run_leaves_nothing_in_the_tracker() -> None:
    for end in (fake.answer("done"), fake.throw(RuntimeError("boom"))):
        made = await driven(fake.report(10, 1), end)
        await made.drive()
        assert made.tracker.get_usage(made.execution.id) == Usage()


# Redaction.


async def test_a_secret_appears_in_no_event() -> None:
    made = await driven(
        fake.write("it is sk-"),
        fake.write("secret-1, you see"),
        fake.message(f"it is {SECRET}, you see"),
        fake.use_tool("t1", "Bash", {"command": f"curl -H {SECRET}", SECRET: [{"deep": SECRET}]}),
        fake.tool_answers("t1", f"401 for {SECRET}"),
        fake.answer(f"used {SECRET}"),
        secrets={"K": SECRET},
    )
    payloads = await made.drive()
    stored = await made.storage.executions.read_events(made.execution.id, 0, 1000)
    assert not any(SECRET.encode() in line.data for line in stored)
    assert "".join(delta.text for delta in of_kind(payloads, TextDelta)) == "it is [REDACTED], you see"
    end = payloads[-1]
    assert isinstance(end, Completed) and end.result == "used [REDACTED]"


async def test_a_secret_appears_in_no_failure() -> None:
    made = await driven(fake.fail(FailureReason.MODEL_ERROR, f"the model refused {SECRET}"), secrets={"K": SECRET})
    assert (await made.failure())[1] == "the model refused [REDACTED]"


async def test_text_that_was_held_back_comes_before_the_message_and_before_the_end() -> None:
    made = await driven(
        fake.write("a sk-"), fake.message("a sk-"), fake.write("b sk-"), fake.answer(""), secrets={"K": SECRET}
    )
    payloads = await made.drive()
    assert [(payload.kind, getattr(payload, "text", None)) for payload in payloads[1:-1]] == [
        ("text_delta", "a "),
        ("text_delta", "sk-"),
        ("message", "a sk-"),
        ("text_delta", "b "),
        ("text_delta", "sk-"),
    ]


async def test_tool_input_that_is_no_object_is_shown_as_an_empty_one() -> None:
    made = await driven(fake.use_tool("t1", "Odd", ["not", "an", "object"]))  # type: ignore[arg-type]
    assert of_kind(await made.drive(), ToolUse) == [ToolUse("t1", "Odd", {})]


STEPS = st.sampled_from(
    [
        fake.report(300, 50),
        fake.ask(100),
        fake.write("some text sk-"),
        fake.write("secret-1"),
        fake.message("text"),
        fake.use_tool("t", "Read", {"a": SECRET}),
        fake.answer("done"),
        fake.fail(FailureReason.MODEL_ERROR, "overloaded"),
        fake.end_without_result(Status.FAILED),
        fake.throw(RuntimeError("boom")),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(STEPS, max_size=8),
    cancel_at=st.none() | st.integers(0, 8),
    interrupt_at=st.none() | st.integers(0, 8),
    fail_at=st.none() | st.integers(0, 8),
)
def test_whatever_happens_there_is_one_end(
    steps: list[Step], cancel_at: int | None, interrupt_at: int | None, fail_at: int | None
) -> None:
    async def play() -> None:
        made = await driven(*steps, limits=Limits(max_tokens=1000), secrets={"K": SECRET})
        writes = -1

        async def meddle(events: Sequence[Event]) -> None:
            nonlocal writes
            writes += 1
            if writes == cancel_at:
                made.run.cancel()
            if writes == interrupt_at:
                made.run.interrupt()
            if writes == fail_at:
                raise StorageUnavailable("disk full")

        made.storage.executions.before_append = meddle
        payloads = await made.drive()
        stored = await made.storage.executions.read_events(made.execution.id, 0, 1000)
        assert SECRET not in b"".join(line.data for line in stored).decode()
        assert all(json.loads(line.data)["kind"] == line.kind for line in stored)
        ended = await made.world.read(made.execution.id)
        end = payloads[-1]
        assert isinstance(end, Completed | Failed | Cancelled)
        assert ended.status.terminal and ended.usage == end.usage
        assert replace(ended, status=Status.RUNNING).last_sequence == len(payloads)

    asyncio.run(play())


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
async def test_a_clock_that_is_set_changes_no_duration_and_no_order(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    begun = timestamps.now()
    moments = [begun, begun + timedelta(milliseconds=1)]
    monkeypatch.setattr(timestamps, "now", lambda: moments.pop(0) if moments else begun + jump)
    made = await driven(fake.message("hello"), fake.answer("hello"))
    *_, end = await made.drive()
    assert isinstance(end, Completed)
    assert 0 <= end.duration < DEADLINE_SECONDS * 1000


async def test_why_a_call_was_refused_is_shown_without_secrets() -> None:
    async def call(executor: FakeExecutor) -> None:
        async def count() -> int:
            return 1

        planned = PlannedCall("c1", executor.model, 10, 1, count, unbounded="the vendor's own tool hunter2_very_secret")
        with contextlib.suppress(CallRefused):
            await executor.listener.before_call(planned)

    world = make_world(engine=FakeEngine(lambda prompt: [call]))
    project = await world.project(system_prompt="key is {{secret:TOKEN}}")
    await world.secrets.set_secret(project.id, "TOKEN", "hunter2_very_secret")
    ended = await world.run(project)
    assert ended.failure is not None
    assert "hunter2" not in ended.failure.message
    assert "[REDACTED]" in ended.failure.message


async def test_a_run_that_says_too_much_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_LOG_BYTES", 3 << 20)
    text = "a" * (2 << 20)
    driven_run = await driven(fake.write(text), fake.message(text), fake.message(text), fake.write(text), fake.hang())
    payloads = await driven_run.drive()
    end = payloads[-1]
    assert isinstance(end, Failed)
    assert end.failure.reason is FailureReason.AGENT_ERROR
    assert end.failure.message == "the agent said more than an event log takes (3 MiB)"
    said = sum(len(payload.text) for payload in payloads if isinstance(payload, TextDelta | Message))
    assert 2 << 20 <= said <= 3 << 20


async def test_no_event_is_larger_than_clients_take() -> None:
    text = "a" * (5 << 20)
    run = await driven(fake.write(text), fake.message(text), fake.fail(FailureReason.AGENT_ERROR, text))
    payloads = await run.drive()
    assert "".join(payload.text for payload in payloads if isinstance(payload, Message)) == text
    end = payloads[-1]
    assert isinstance(end, Failed) and len(end.failure.message) == runner.MAX_FAILURE_CHARACTERS
    events = await run.storage.executions.read_events(run.execution.id, 0, 1000)
    assert max(len(event.data) for event in events) <= 1 << 20


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_run_ends_although_its_ledger_is_damaged(monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    run = await driven(fake.ask(), fake.report(10, 5), fake.ask(), fake.hang())

    async def damaged(*_: object) -> None:
        raise StoredDataDamaged("ledger/2026-11.jsonl", "its checksum does not fit")

    driving = asyncio.create_task(run.drive())
    await run.world.until(run.execution.id, lambda execution: execution.usage.total_tokens > 0)
    monkeypatch.setattr(run.storage.ledger, "settle", damaged)
    if cancelled:
        run.run.cancel()
    else:
        run.run.interrupt()
    end = (await driving)[-1]
    assert isinstance(end, Failed) and end.usage.estimated
    assert "damaged" in end.failure.message


async def test_a_call_waits_also_where_another_executions_log_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether that one has ended; what it has reserved may be settled still."""
    run = await driven(fake.ask(), fake.report(10, 5), fake.answer("done"))
    await run.storage.projects.update(
        run.execution.project_id, ProjectChanges(budget=Budget(total=BudgetLimit(max_tokens=100_000)))
    )
    other = new_id()
    reserved = Reservation(other, new_id(), TokenUsage(90_000, 9_990, MODEL), Decimal(0), timestamps.now())
    await run.storage.ledger.reserve(run.execution.project_id, timestamps.now(), lambda _: reserved)
    looked = asyncio.Event()
    read = run.storage.executions.read

    async def damaged(execution_id: str) -> Execution | None:
        if execution_id == other:
            looked.set()
            raise StoredDataDamaged("events.jsonl", "its checksum does not fit")
        return await read(execution_id)

    monkeypatch.setattr(run.storage.executions, "read", damaged)
    driving = asyncio.create_task(run.drive())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await looked.wait()
        await run.storage.ledger.settle(run.execution.project_id, Settlement.in_full(reserved, "v"))
        assert isinstance((await driving)[-1], Completed)
    assert run.executor.allowed == [10]


async def test_a_failure_is_redacted_before_it_is_cut() -> None:
    for before in range(runner.MAX_FAILURE_CHARACTERS - len(SECRET), runner.MAX_FAILURE_CHARACTERS):
        message = "x" * before + SECRET + " and more"
        run = await driven(fake.fail(FailureReason.AGENT_ERROR, message), secrets={"KEY": SECRET})
        _, shown, _ = await run.failure()
        assert SECRET[:4] not in shown and len(shown) <= runner.MAX_FAILURE_CHARACTERS
