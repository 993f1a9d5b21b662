"""Usage reports over time: month borders, restarts, other processes on the folder, signs of life."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import InvalidRequest, ProjectNotFound
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import LedgerTotals, Reservation, Settlement
from cloutagent_server.domain.project import Project
from cloutagent_server.domain.usage import days_between
from cloutagent_server.service.usage import UsageService
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders

DEADLINE = 20.0
LAST_SECOND = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)


async def _spend(
    storage: Storage, project: Project, tokens: int, time: datetime, model: str = "a", *, estimated: bool = False
) -> None:
    call = Reservation(new_id(), new_id(), TokenUsage(tokens, 1, model), Decimal(2), time)
    await storage.ledger.reserve(project.id, time, lambda _: call)
    used = TokenUsage(tokens, 1, model, cache_read_tokens=2, cache_write_tokens=1)
    await storage.ledger.settle(project.id, Settlement(call.call_id, used, Decimal(1), "v", estimated))


async def _project(storage: Storage) -> Project:
    return await storage.projects.create(builders.project_draft(), builders.credential())


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_days_and_months_are_kept_apart_also_after_a_restart(tmp_path: Path, kind: str) -> None:
    storage: Storage = MemoryStorage() if kind == "memory" else FileSystemStorage(tmp_path)
    await storage.start()
    project = await _project(storage)
    await _spend(storage, project, 10, LAST_SECOND)
    await _spend(storage, project, 20, LAST_SECOND, estimated=True)
    await _spend(storage, project, 30, LAST_SECOND, "b")
    await _spend(storage, project, 40, LAST_SECOND + timedelta(seconds=1))

    async def check(storage: Storage) -> None:
        usage = UsageService(storage)
        whole = await usage.report(project.id, "2026-02-28", "2026-03-01")
        assert [(part.day, part.model, part.usage.prompt_tokens, part.calls) for part in whole.days] == [
            ("2026-02-28", "a", 30, 2),
            ("2026-02-28", "b", 30, 1),
            ("2026-03-01", "a", 40, 1),
        ]
        total = whole.sum
        assert (total.calls, total.prompt_tokens, total.completion_tokens) == (4, 100, 4)
        assert (total.cache_read_tokens, total.cache_write_tokens) == (8, 4)
        assert (total.cost, total.estimated_cost) == (Decimal(4), Decimal(1))
        assert (await usage.report(project.id, "2026-03-01", "2026-03-31")).sum.prompt_tokens == 40
        assert (await usage.report(project.id, None, "2026-02-28")).sum.prompt_tokens == 60

    await check(storage)
    await storage.stop()
    if kind == "disk":
        for _ in range(2):
            reopened = FileSystemStorage(tmp_path)
            await reopened.start()
            await check(reopened)
            await reopened.stop()


async def test_a_watch_sees_what_another_server_on_the_folder_spends(tmp_path: Path) -> None:
    here, there = FileSystemStorage(tmp_path), FileSystemStorage(tmp_path)
    await here.start()
    await there.start()
    project = await _project(here)
    usage = UsageService(here, pause_seconds=0.05)
    reports = usage.watch(project.id, None, None)
    async with aclosing(reports), asyncio.timeout(DEADLINE):
        first = await anext(reports)
        assert first is not None and first.sum.calls == 0
        await _spend(there, project, 10, timestamps.now())
        async for report in reports:
            assert report is not None
            if report.sum.calls == 1:
                break
        await there.projects.delete(project.id)
        with pytest.raises(ProjectNotFound):
            async for _ in reports:
                pass
    await here.stop()
    await there.stop()


async def test_a_quiet_watch_gives_signs_of_life_and_a_stalled_one_holds_nobody() -> None:
    storage = MemoryStorage()
    await storage.start()
    project = await _project(storage)
    usage = UsageService(storage, pause_seconds=0.01, heartbeat_seconds=0.02)
    stalled, reads = usage.watch(project.id, None, None), usage.watch(project.id, None, None)
    async with aclosing(stalled), aclosing(reads), asyncio.timeout(DEADLINE):
        assert await anext(stalled) is not None
        assert await anext(reads) is not None
        assert await anext(reads) is None
        for spent in range(1, 4):
            await _spend(storage, project, 10, timestamps.now())
            while (report := await anext(reads)) is None or report.sum.calls < spent:
                pass
        # One that comes back gets the usage as it is now, not each step on the way.
        late = await anext(stalled)
        assert late is not None and late.sum.calls == 3
    await storage.stop()


async def test_many_changes_at_once_are_one_update() -> None:
    storage = MemoryStorage()
    await storage.start()
    project = await _project(storage)
    reports = UsageService(storage, pause_seconds=0.05).watch(project.id, None, None)
    async with aclosing(reports), asyncio.timeout(DEADLINE):
        await anext(reports)
        for _ in range(50):
            await _spend(storage, project, 10, timestamps.now())
        update = await anext(reports)
        assert update is not None and update.sum.calls == 50
    await storage.stop()


def test_a_range_has_366_days_at_most() -> None:
    assert days_between("2024-01-01", "2024-12-31", LAST_SECOND) == ("2024-01-01", "2024-12-31")
    assert days_between(None, None, LAST_SECOND) == ("2026-01-30", "2026-02-28")
    with pytest.raises(InvalidRequest):
        days_between("2023-12-31", "2024-12-31", LAST_SECOND)


async def test_watchers_of_a_project_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    project = await _project(storage)
    looks, totals = 0, storage.ledger.totals

    async def counted(project_id: str, now: datetime) -> LedgerTotals:
        nonlocal looks
        looks += 1
        return await totals(project_id, now)

    monkeypatch.setattr(storage.ledger, "totals", counted)
    usage = UsageService(storage, pause_seconds=0.5)
    async with (
        aclosing(usage.watch(project.id, None, None)) as first,
        aclosing(usage.watch(project.id, None, None)) as second,
    ):
        await asyncio.gather(anext(first), anext(second))
        assert looks == 2
        await _spend(storage, project, 10, timestamps.now())
        reports = await asyncio.gather(anext(first), anext(second))
    assert reports[0] == reports[1]
    assert looks == 3
