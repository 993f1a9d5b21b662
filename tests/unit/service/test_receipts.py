"""Receipts of executions whose calls were settled by servers of several versions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cloutagent_server.domain.cost import Model, TokenUsage
from cloutagent_server.domain.ledger import Reservation, Settlement
from cloutagent_server.domain.receipt import ReceiptPrice
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.fake_prices import MODEL, FakePriceList


async def test_prices_that_were_not_kept_with_a_call_are_those_of_its_version_or_none() -> None:
    """So it is with calls that an earlier server settled."""
    storage, prices = MemoryStorage(), FakePriceList()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    kept = Model(MODEL, "As it was", Decimal(1), Decimal(2))
    for number, (version, model) in enumerate([(prices.version, None), ("old", None), ("old", kept), ("old", kept)]):
        usage, time = TokenUsage(10, 1, MODEL), execution.created_at
        call = Reservation(execution.id, f"call {number}", usage, Decimal(1), time)
        await storage.ledger.reserve(project.id, time, lambda _, call=call: call)  # type: ignore[misc]
        await storage.ledger.settle(project.id, Settlement(call.call_id, usage, Decimal(1), version, prices=model))
    receipt = await ReceiptService(storage, prices).receipt(execution.id)
    assert list(receipt.prices) == [
        ReceiptPrice(prices.version, MODEL, prices.model(MODEL)),
        ReceiptPrice("old", MODEL, None),
        ReceiptPrice("old", MODEL, kept),
    ]


async def test_a_call_counts_whose_month_comes_after_that_of_the_end() -> None:
    """The clock was set back between the two."""
    storage, prices = MemoryStorage(), FakePriceList()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    last_second = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    execution = await storage.executions.create(builders.execution(project.id, created_at=last_second))
    usage, time = TokenUsage(10, 1, MODEL), last_second + timedelta(seconds=2)
    call = Reservation(execution.id, "call", usage, Decimal(1), time)
    await storage.ledger.reserve(project.id, time, lambda _: call)
    await storage.ledger.settle(project.id, Settlement("call", usage, Decimal(1), prices.version))
    events = builders.events(execution.id, builders.payloads_of_a_run())
    await storage.executions.append([replace(event, time=last_second) for event in events])
    receipt = await ReceiptService(storage, prices).receipt(execution.id)
    assert [call.reservation.call_id for call in receipt.calls] == ["call"]
