"""Faults of the vendor, through the execution service and the real agent: calls made, and what is counted for them.

What the vendor told comes from the local model's own ledger, and is compared with the execution, with each call in the
project's ledger, and with the project's totals.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import cast

import psutil
import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.events import Failed, Failure, FailureReason
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.domain.ledger import Amount, LedgerCall
from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import SILENCE_SECONDS, ModelGateway
from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.local_model.ledger import Call
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support.fake_engine import FakeEngine
from tests.support.processes import Tree
from tests.support.service_world import World, make_world

pytestmark = pytest.mark.e2e

KEY = "sk-ant-the-real-key"
MODEL = "claude-sonnet-4-5"
MAX_TOKENS = 500
PRICES = GenaiPriceList()

# What a call counts, given what the vendor told about it and what is in the project's ledger.
Counted = Callable[[Call, LedgerCall], TokenUsage]


def nothing(_: Call, __: LedgerCall) -> TokenUsage:
    return TokenUsage(0, 0, MODEL)


def what_was_told(told: Call, _: LedgerCall) -> TokenUsage:
    return TokenUsage(told.input_tokens, told.output_tokens, MODEL)


def input_and_max_tokens(told: Call, _: LedgerCall) -> TokenUsage:
    assert told.input_tokens > 0
    return TokenUsage(told.input_tokens, MAX_TOKENS, MODEL)


def all_that_was_reserved(told: Call, call: LedgerCall) -> TokenUsage:
    assert told.input_tokens == 0
    assert call.reservation.usage.prompt_tokens > 0
    assert call.reservation.usage.completion_tokens == MAX_TOKENS
    return call.reservation.usage


ESTIMATES: Sequence[Counted] = (input_and_max_tokens, all_that_was_reserved)


@asynccontextmanager
async def working(folder: Path, url: str, silence_seconds: float = SILENCE_SECONDS) -> AsyncIterator[World]:
    """The services on files and the real engine, for which the vendor is at `url`. No process is left at the end."""
    before = psutil.Process().children(recursive=True)
    gateway = ModelGateway(url, KEY, PRICES, silence_seconds=silence_seconds)
    engine = ClaudeEngine(gateway, PRICES, folder / "runs")
    storage = FileSystemStorage(folder / "projects")
    await storage.start()
    await engine.start()
    world = make_world(engine=cast(FakeEngine, engine), storage=storage, prices=PRICES)
    try:
        yield world
        assert Tree(os.getpid(), but=before).left() == []
    finally:
        await world.executions.stop(grace=0)
        await engine.stop()
        await storage.stop()


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    local = LocalModel(KEY)
    await local.start()
    yield local
    await local.stop()


async def ledger_calls(world: World, execution: Execution) -> Sequence[LedgerCall]:
    return await world.storage.ledger.calls(execution.project_id, execution.id, execution.created_at)


async def assert_counted(world: World, execution: Execution, told: Sequence[Call], counted: Sequence[Counted]) -> None:
    """Each call counts as told, and execution, last event and the project's totals are their sum."""
    calls = await ledger_calls(world, execution)
    assert len(told) == len(calls) == len(counted)
    wanted = Usage()
    for call, vendors, count in zip(calls, told, counted, strict=True):
        assert call.settlement is not None
        usage = count(vendors, call)
        cost = call.reservation.cost if count is all_that_was_reserved else PRICES.cost(usage)
        settled = (call.settlement.usage, call.settlement.cost, call.settlement.estimated)
        assert settled == (usage, cost, count in ESTIMATES)
        if count is not nothing:
            wanted = wanted.plus(usage, cost, calls=1, estimated=count in ESTIMATES)
    assert execution.usage == wanted
    last = (await world.payloads(execution.id))[-1]
    assert getattr(last, "usage") == wanted  # noqa: B009 - which of the three ends it is, is not asked here
    totals = await world.storage.ledger.totals(execution.project_id, timestamps.now())
    assert totals.total.settled == Amount(wanted.total_tokens, wanted.total_cost)
    assert (totals.total.reserved, totals.open) == (Amount(), {})


@dataclass(frozen=True)
class Fault:
    """What a prompt makes the vendor do, and what becomes of the run."""

    prompt: str
    failure: Failure
    counted: Sequence[Counted]


def model_error(message: str) -> Failure:
    return Failure(FailureReason.MODEL_ERROR, f"the model's API failed{message}")


UNREADABLE = Failure(
    FailureReason.AGENT_ERROR,
    "the agent ended without success: it could not make sense of the answers of the model's API",
)
FAULTS = {
    "the stream is cut": Fault(
        "[[say: half]] [[cut]]", model_error(": its answer broke off"), [input_and_max_tokens] * 3
    ),
    "an error inside the stream": Fault(
        "[[say: half]] [[error: 529]]", model_error(": the script asks for status 529"), [input_and_max_tokens]
    ),
    "another error inside the stream": Fault(
        "[[say: half]] [[error: 500]]", model_error(": the script asks for status 500"), [input_and_max_tokens]
    ),
    "garbage": Fault("[[say: half]] [[garbage]]", UNREADABLE, [input_and_max_tokens]),
    "silence before the answer": Fault(
        "[[silence]]", model_error(": it sent nothing for 1 s"), [all_that_was_reserved] * 3
    ),
    "silence in the answer": Fault(
        "[[say: half]] [[silence]]", model_error(": it sent nothing for 1 s"), [input_and_max_tokens] * 3
    ),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_vendor_is_counted_call_by_call(tmp_path: Path, model: LocalModel, name: str) -> None:
    fault = FAULTS[name]
    async with working(tmp_path, model.base_url, silence_seconds=1.0) as world:
        execution = await world.run(await world.project(max_tokens=MAX_TOKENS), fault.prompt)
        assert (execution.status, execution.failure) == (Status.FAILED, fault.failure)
        payloads = await world.payloads(execution.id)
        assert [type(payload) for payload in payloads].count(Failed) == 1
        await assert_counted(world, execution, model.ledger.messages, fault.counted)


@pytest.mark.parametrize(("status", "calls"), [(400, 2), (403, 1), (529, 3)])
async def test_an_error_of_the_vendor_counts_nothing(
    tmp_path: Path, model: LocalModel, status: int, calls: int
) -> None:
    async with working(tmp_path, model.base_url) as world:
        execution = await world.run(await world.project(max_tokens=MAX_TOKENS), f"[[error: {status}]]")
        assert execution.failure is not None
        assert execution.failure.reason is FailureReason.MODEL_ERROR
        assert [call.status for call in model.ledger.messages] == [status] * calls
        await assert_counted(world, execution, model.ledger.messages, [nothing] * calls)


@pytest.mark.parametrize(
    ("fault", "counted"), [("[[fail-once: 529]]", nothing), ("[[say: half]] [[fail-once: cut]]", input_and_max_tokens)]
)
async def test_a_fault_before_an_answer_is_counted_beside_the_answer(
    tmp_path: Path, model: LocalModel, fault: str, counted: Counted
) -> None:
    async with working(tmp_path, model.base_url) as world:
        execution = await world.run(await world.project(max_tokens=MAX_TOKENS), f"{fault} [[say: at last]]")
        assert execution.status is Status.COMPLETED
        await assert_counted(world, execution, model.ledger.messages, [counted, what_was_told])


async def test_a_vendor_that_cannot_be_reached_counts_nothing(tmp_path: Path, model: LocalModel) -> None:
    async with working(tmp_path, model.base_url) as world:
        project = await world.project(max_tokens=MAX_TOKENS)
        # The first run tells the gateway what the vendor adds for tools, so that the next goes out without counting.
        assert (await world.run(project, "[[say: there]]")).status is Status.COMPLETED
        await model.stop()
        execution = await world.run(project, "[[say: never]]")
        assert execution.failure == model_error(": it cannot be reached")
        assert execution.usage == Usage()
        calls = await ledger_calls(world, execution)
        assert [call.settlement and call.settlement.cost for call in calls] == [Decimal(0)] * 3


async def test_a_cancelled_call_counts_the_input_and_max_tokens(tmp_path: Path, model: LocalModel) -> None:
    async with working(tmp_path, model.base_url) as world:
        started = await world.start(await world.project(max_tokens=MAX_TOKENS), "[[say: half]] [[silence]]")
        await world.until(started.id, lambda execution: execution.usage.prompt_tokens > 0)
        execution = await world.executions.cancel(started.id)
        assert execution.status is Status.CANCELLED
        await assert_counted(world, execution, model.ledger.messages, [input_and_max_tokens])
