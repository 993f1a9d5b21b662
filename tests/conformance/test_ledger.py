"""Promises of `Ledger`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cloutagent_server.domain.cost import Model, TokenUsage, Usage
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import (
    Amount,
    DayUsage,
    LedgerCall,
    LedgerTotals,
    Reservation,
    Settlement,
    Window,
    usage_of,
)
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage
from tests.support import builders

NOW = datetime(2026, 3, 31, 23, 59, 59, 500_000, tzinfo=UTC)
NEXT_DAY = NOW + timedelta(seconds=1)
MODEL = "claude-sonnet-4-5"


def reservation(tokens: int = 100, cost: str = "0.5", at: datetime = NOW, execution_id: str = "e") -> Reservation:
    return Reservation(execution_id, new_id(), TokenUsage(tokens - 1, 1, MODEL), Decimal(cost), at)


def settlement(call: Reservation, tokens: int = 40, cost: str = "0.1", *, estimated: bool = False) -> Settlement:
    usage = TokenUsage(tokens - 1, 1, MODEL, 2, 4, 3)
    return Settlement(call.call_id, usage, Decimal(cost), "prices 1", estimated)


async def reserve(storage: Storage, project: Project, call: Reservation) -> LedgerTotals:
    return await storage.ledger.reserve(project.id, call.time, lambda _: call)


async def test_totals_are_those_of_day_month_and_ever(storage: Storage, project: Project) -> None:
    old, new = reservation(), reservation(70, "0.2", NEXT_DAY)
    assert await reserve(storage, project, old) == LedgerTotals()
    await reserve(storage, project, new)
    full, rest = Amount(100, Decimal("0.5")), Amount(70, Decimal("0.2"))
    before = await storage.ledger.totals(project.id, NOW)
    assert (before.day, before.month) == (Window(reserved=full), Window(reserved=full))
    assert before.total == Window(reserved=full.plus(rest))
    assert dict(before.open) == {old.call_id: old, new.call_id: new}
    assert await storage.ledger.settle(project.id, settlement(old))
    used = Amount(40, Decimal("0.1"))
    after = await storage.ledger.totals(project.id, NEXT_DAY)
    assert (after.day, after.month) == (Window(reserved=rest), Window(reserved=rest))
    assert after.total == Window(used, rest)
    assert (await storage.ledger.totals(project.id, NOW)).day == Window(used)
    assert after.version != before.version


async def test_decide_sees_the_totals_and_may_decline(storage: Storage, project: Project) -> None:
    call = reservation()
    await reserve(storage, project, call)
    seen: list[LedgerTotals] = []

    def decline(totals: LedgerTotals) -> None:
        seen.append(totals)

    assert await storage.ledger.reserve(project.id, NOW, decline) == seen[0]
    assert dict(seen[0].open) == {call.call_id: call}
    assert (await storage.ledger.totals(project.id, NOW)).total == Window(reserved=call.amount)


async def test_what_decide_raises_is_raised_and_nothing_is_stored(storage: Storage, project: Project) -> None:
    def fail(_: LedgerTotals) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await storage.ledger.reserve(project.id, NOW, fail)
    assert await storage.ledger.totals(project.id, NOW) == LedgerTotals()


async def test_whoever_reserves_is_told_while_it_is_stored(storage: Storage, project: Project) -> None:
    told: list[str] = []
    wanted: list[Reservation | None] = [reservation(), None]

    def decide(totals: LedgerTotals) -> Reservation | None:
        told.append("decide")
        return wanted.pop(0)

    while wanted:
        await storage.ledger.reserve(project.id, NOW, decide, lambda: told.append("storing"))
        told.append("stored")
    assert told == ["decide", "storing", "stored", "decide", "stored"]


async def test_a_call_is_reserved_and_settled_once(storage: Storage, project: Project) -> None:
    call = reservation()
    await reserve(storage, project, call)
    with pytest.raises(ValueError, match="already"):
        await reserve(storage, project, call)
    assert await storage.ledger.settle(project.id, settlement(call))
    assert not await storage.ledger.settle(project.id, settlement(call))
    assert not await storage.ledger.settle(project.id, settlement(reservation()))
    assert (await storage.ledger.totals(project.id, NOW)).total == Window(Amount(40, Decimal("0.1")))


async def test_of_concurrent_reservations_each_sees_those_before(storage: Storage, project: Project) -> None:
    """Ten want 100 of 550 tokens: five get them."""

    async def want() -> None:
        call = reservation()
        await storage.ledger.reserve(
            project.id, NOW, lambda totals: call if totals.total.all.tokens + 100 <= 550 else None
        )

    await asyncio.gather(*(want() for _ in range(10)))
    assert (await storage.ledger.totals(project.id, NOW)).total.reserved.tokens == 500


async def test_the_calls_of_an_execution(storage: Storage, project: Project) -> None:
    first, other, last = reservation(), reservation(execution_id="x"), reservation(at=NEXT_DAY)
    for call in (first, other, last):
        await reserve(storage, project, call)
    end = settlement(first, estimated=True)
    await storage.ledger.settle(project.id, end)
    calls = await storage.ledger.calls(project.id, "e", NOW - timedelta(days=1))
    assert list(calls) == [LedgerCall(first, end), LedgerCall(last)]
    assert usage_of(calls) == Usage(39 + 99, 2, 2, 4, Decimal("0.6"), 2, estimated=True)
    assert list(await storage.ledger.calls(project.id, "e", NOW, NOW)) == [LedgerCall(first, end)]
    assert list(await storage.ledger.calls(project.id, "e", NEXT_DAY, NEXT_DAY)) == [LedgerCall(last)]
    assert await storage.ledger.calls(project.id, "nobody", NOW) in ((), [])


@pytest.mark.parametrize(
    "prices",
    [
        Model(MODEL, 'Sonnet "4.5" é', Decimal("0.000003"), Decimal("1.5E-9"), Decimal("3E-7"), Decimal(0), 200_000),
        Model("claude-free-1", "", Decimal(0), Decimal(0)),
        Model(MODEL, ',"prices":{"id":"x"}', Decimal(1), Decimal(2)),
    ],
)
async def test_a_settlement_keeps_the_prices(storage: Storage, project: Project, prices: Model) -> None:
    call = reservation()
    await reserve(storage, project, call)
    end = replace(settlement(call), prices=prices)
    await storage.ledger.settle(project.id, end)
    assert list(await storage.ledger.calls(project.id, "e", NOW)) == [LedgerCall(call, end)]


async def test_usage_by_day_and_model(storage: Storage, project: Project) -> None:
    for at, estimated in ((NOW, False), (NOW, True), (NEXT_DAY, False)):
        call = reservation(at=at)
        await reserve(storage, project, call)
        await storage.ledger.settle(project.id, settlement(call, estimated=estimated))
    free = reservation(at=NEXT_DAY + timedelta(days=1))
    await reserve(storage, project, free)
    await storage.ledger.settle(project.id, Settlement(free.call_id, TokenUsage(0, 0, MODEL), Decimal(0), "prices 1"))
    used = await storage.ledger.usage(project.id, "2026-01-01", "2026-12-31")
    assert list(used) == [
        DayUsage("2026-03-31", MODEL, TokenUsage(78, 2, MODEL, 4, 8, 6), Decimal("0.2"), 2, Decimal("0.1")),
        DayUsage("2026-04-01", MODEL, TokenUsage(39, 1, MODEL, 2, 4, 3), Decimal("0.1"), 1),
    ]
    assert list(await storage.ledger.usage(project.id, "2026-04-01", "2026-04-01")) == [used[1]]


async def test_a_settlement_wakes_those_who_wait(storage: Storage, project: Project) -> None:
    call = reservation()
    await reserve(storage, project, call)
    totals = await storage.ledger.totals(project.id, NOW)
    waiting = asyncio.ensure_future(storage.ledger.wait_for_settlement(project.id, totals.version))
    await asyncio.sleep(0)
    assert not waiting.done()
    await storage.ledger.settle(project.id, settlement(call))
    await asyncio.wait_for(waiting, 20)
    await asyncio.wait_for(storage.ledger.wait_for_settlement(project.id, totals.version), 20)


async def test_a_ledger_outlives_executions_and_goes_with_its_project(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    await reserve(storage, project, reservation(execution_id=execution.id))
    await storage.executions.delete(execution.id)
    assert len(await storage.ledger.calls(project.id, execution.id, NOW)) == 1
    totals = await storage.ledger.totals(project.id, NOW)
    waiting = asyncio.ensure_future(storage.ledger.wait_for_settlement(project.id, totals.version))
    await storage.projects.delete(project.id)
    await asyncio.wait_for(waiting, 20)
    assert await storage.ledger.totals(project.id, NOW) == LedgerTotals()
    assert not await storage.ledger.calls(project.id, execution.id, NOW)
    assert not await storage.ledger.usage(project.id, "2026-01-01", "2026-12-31")
    with pytest.raises(ProjectNotFound):
        await reserve(storage, project, reservation())


@pytest.mark.parametrize("project_id", ["", "../x", "00000000-0000-4000-8000-000000000000"])
async def test_without_a_project_there_is_nothing(storage: Storage, project_id: str) -> None:
    with pytest.raises(ProjectNotFound):
        await storage.ledger.reserve(project_id, NOW, lambda _: reservation())
    assert not await storage.ledger.settle(project_id, settlement(reservation()))
    assert await storage.ledger.totals(project_id, NOW) == LedgerTotals()
