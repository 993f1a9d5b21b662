"""A run whose agent calls two models, also at the same time: each call is counted at its own model's price."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Final

import aiohttp

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.ledger import Amount, DayUsage, Window, day_of
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.billing_vendor import BillingVendor, Call
from tests.support.service_world import DEADLINE_SECONDS, ENCRYPTION_KEY, agent, draft
from tests.support.wire_agent import NumberedGateway, WireEngine

# 3 and 15 US dollars for a million tokens in and out; 1 and 5, a cache read 0.1, a cache write 1.25, for an hour 2.
MODEL: Final = "claude-sonnet-4-5"
SMALL: Final = "claude-haiku-4-5"
PRICES: Final = GenaiPriceList()
MILLION: Final = 1_000_000

# What the agent is asked to do, and beside it a title that a small model writes; then a subagent, and one that is cut.
ROUNDS: Final = (
    (
        Call(MODEL, text=400, max_tokens=50, wants=20),
        Call(SMALL, text=2000, cache="5m", read=20, written=50, max_tokens=100, wants=30),
    ),
    (
        Call(SMALL, text=400, cache="1h", written=20, max_tokens=50, wants=10, stream=False),
        Call(MODEL, text=400, max_tokens=50, wants=10, fault="no_final"),
        Call(SMALL, text=40_000, max_tokens=50, fault="error"),
    ),
)
COSTS: Final = {
    (100, 20, MODEL): Decimal(100 * 3 + 20 * 15) / MILLION,
    (500, 30, SMALL): (150 + 100 * Decimal("0.1") + 250 * Decimal("1.25") + 30 * 5) / MILLION,
    (100, 10, SMALL): Decimal(80 + 20 * 2 + 10 * 5) / MILLION,
    (100, 50, MODEL): Decimal(100 * 3 + 50 * 15) / MILLION,
    (0, 0, SMALL): Decimal(0),
}
WHOLE: Final = sum(COSTS.values(), Decimal(0))


async def test_each_call_counts_at_the_price_of_its_own_model() -> None:
    vendor, storage = BillingVendor(), MemoryStorage()
    await vendor.start()
    gateway = NumberedGateway(vendor.url, "sk-ant-real", PRICES)
    await gateway.start()
    try:
        async with aiohttp.ClientSession() as http:
            engine = WireEngine(gateway, http, vendor.heard)
            engine.scripts = {"go": ROUNDS}
            secrets = SecretManager(storage.secrets, Keyring(ENCRYPTION_KEY))
            service = ExecutionService(storage, secrets, engine, PRICES, max_running=1, max_waiting=1)
            limits = Limits(max_tokens=100_000, max_cost=Decimal(1), timeout=round(DEADLINE_SECONDS * 1000))
            budget = Budget(daily=BudgetLimit(100_000, Decimal(1)))
            project = await storage.projects.create(
                replace(draft(agent=agent(model=MODEL, max_tokens=300), limits=limits), budget=budget),
                builders.credential(),
            )
            execution, _ = await service.start(ExecutionRequest(project.id, "go"))
            async with asyncio.timeout(DEADLINE_SECONDS):
                ended = await service.finished(execution.id)
            await service.stop(0)
    finally:
        await gateway.stop()
        await vendor.stop()

    calls = await storage.ledger.calls(project.id, execution.id, execution.created_at)
    settled = [call.settlement for call in calls if call.settlement is not None]
    assert len(settled) == len(calls) == 5
    counted = {(s.usage.prompt_tokens, s.usage.completion_tokens, s.usage.model): s.cost for s in settled}
    assert counted == COSTS
    assert Counter(s.estimated for s in settled) == {False: 4, True: 1}

    day = day_of(calls[0].reservation.time)
    whole, small = COSTS[100, 20, MODEL] + COSTS[100, 50, MODEL], COSTS[500, 30, SMALL] + COSTS[100, 10, SMALL]
    assert await storage.ledger.usage(project.id, day, day) == (
        DayUsage(day, SMALL, TokenUsage(600, 40, SMALL, 100, 270, 20), small, 2),
        DayUsage(day, MODEL, TokenUsage(200, 70, MODEL), whole, 2, COSTS[100, 50, MODEL]),
    )
    totals = await storage.ledger.totals(project.id, timestamps.now())
    assert (totals.total, dict(totals.open)) == (Window(Amount(910, WHOLE)), {})
    assert ended.usage == Usage(800, 110, 100, 270, WHOLE, 4, estimated=True)
