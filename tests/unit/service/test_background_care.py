"""Retention and takeover work in the background: a fault of one round ends neither."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from cloutagent_server.domain.errors import ExecutionNotFound, StorageUnavailable, StoredDataDamaged
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.service.retention import Retention
from cloutagent_server.service.takeover import Takeover
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.fake_prices import FakePriceList
from tests.support.service_world import make_world

DEADLINE = 20.0


async def test_what_was_not_started_stops_at_once() -> None:
    world = make_world()
    await Takeover(world.executions).stop()
    await Retention(world.storage.executions, timedelta(days=1), 1).stop()


async def test_a_takeover_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, rounds, twice = make_world(), 0, asyncio.Event()

    async def fail() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            twice.set()
        raise StorageUnavailable("the disk is full")

    monkeypatch.setattr(world.executions, "recover", fail)
    takeover = Takeover(world.executions, interval_seconds=0.001)
    takeover.start()
    await asyncio.wait_for(twice.wait(), DEADLINE)
    await takeover.stop()
    assert "looking after executions failed" in caplog.text


@pytest.mark.parametrize(
    "fault", [StoredDataDamaged("events.jsonl", "line 3: is not JSON"), StorageUnavailable("full"), OSError("gone")]
)
async def test_a_log_that_cannot_be_trimmed_holds_up_no_other(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = MemoryStorage()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    ended = []
    for _ in range(2):
        execution = await storage.executions.create(builders.execution(project.id))
        await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
        ended.append(execution.id)
    trim = storage.executions.trim

    async def trim_some(execution_id: str) -> bool:
        if execution_id == ended[0]:
            raise fault
        return await trim(execution_id)

    monkeypatch.setattr(storage.executions, "trim", trim_some)
    retention = Retention(storage.executions, timedelta(days=7), 1)
    assert await retention.sweep(builders.at(0) + timedelta(days=70)) == 1
    assert "not trimmed" in caplog.text


async def test_a_round_of_the_retention_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage, rounds, twice = MemoryStorage(), 0, asyncio.Event()

    async def fail() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            twice.set()
        raise OSError("too many open files")

    monkeypatch.setattr(storage.executions, "list_histories", fail)
    retention = Retention(storage.executions, timedelta(days=7), 1, interval_seconds=0.001)
    retention.start()
    await asyncio.wait_for(twice.wait(), DEADLINE)
    await retention.stop()
    assert "retention failed" in caplog.text


async def test_there_is_no_receipt_of_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    receipts = ReceiptService(storage, FakePriceList())
    with pytest.raises(ExecutionNotFound):
        await receipts.receipt("00000000-0000-4000-8000-000000000000")

    project = await storage.projects.create(builders.project_draft(), builders.credential())
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    ended = await storage.executions.read(execution.id)
    assert (await receipts.receipt(execution.id)).execution == ended

    async def nothing(*_: object) -> tuple[()]:
        return ()

    # It is deleted between the look at it and the reading of its log.
    monkeypatch.setattr(storage.executions, "read_events", nothing)
    with pytest.raises(ExecutionNotFound):
        await receipts.receipt(execution.id)
