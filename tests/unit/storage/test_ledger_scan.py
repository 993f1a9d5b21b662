"""The calls of one execution among those of many: what is read for them, what damage is noticed, who waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import LedgerCall, Reservation, Settlement
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.ledger_files import LedgerFiles
from cloutagent_server.storage.filesystem.ledger_records import read_line, reserved_line, settled_line
from cloutagent_server.storage.filesystem.ledger_scan import MonthScan
from tests.support import builders

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3)
MODEL = "claude-sonnet-4-5"
OWN, OTHER = "1b4e28ba-2fa1-4e3d-a883-0016d3cca427", "6fa459ea-ee8a-4ca4-894e-db77e160355e"
DEADLINE_SECONDS = 20


def reservation(execution_id: str, at: datetime = NOW) -> Reservation:
    return Reservation(execution_id, new_id(), TokenUsage(99, 1, MODEL), Decimal("0.5"), at)


def settled(call: Reservation) -> LedgerCall:
    return LedgerCall(call, Settlement(call.call_id, TokenUsage(30, 10, MODEL), Decimal("0.1"), "prices 1"))


def lines_of(calls: Sequence[LedgerCall]) -> bytes:
    """Each call is settled while the next one is under way."""
    lines: list[bytes] = []
    for number, call in enumerate(calls):
        lines.append(reserved_line(call.reservation))
        before = calls[number - 1].settlement if number else None
        lines += [] if before is None else [settled_line(before)]
    last = calls[-1].settlement
    return b"".join([*lines, *([] if last is None else [settled_line(last)])])


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that were parsed to find calls."""
    parsed: list[bytes] = []

    def noted(line: bytes) -> object:
        parsed.append(line)
        return read_line(line)

    monkeypatch.setattr("cloutagent_server.storage.filesystem.ledger_scan.read_line", noted)
    return parsed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "2026-03.jsonl"


def write(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    path.chmod(0o600)
    return len(content)


@pytest.mark.parametrize("block_size", [100, 1_000, 1 << 20])
def test_only_lines_of_its_own_are_parsed(path: Path, block_size: int, parsed: list[bytes]) -> None:
    own = [settled(reservation(OWN)), LedgerCall(reservation(OWN)), settled(reservation(OWN))]
    others = [settled(reservation(new_id())) for _ in range(100)]
    size = write(path, lines_of([*others[:40], own[0], *others[40:60], *own[1:], *others[60:]]))
    scan = MonthScan(path, block_size)
    for _ in range(2):
        parsed.clear()
        assert list(scan.calls(OWN, size)) == own
        assert len(parsed) == 5
    assert scan.calls(new_id(), size) == ()


@given(
    steps=st.lists(
        st.one_of(st.tuples(st.just("reserve"), st.integers(0, 2)), st.tuples(st.just("settle"), st.integers(0)))
    ),
    block_size=st.integers(1, 2_000),
    cut=st.integers(0),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_finds_what_reading_every_line_finds(
    path: Path, steps: list[tuple[str, int]], block_size: int, cut: int
) -> None:
    executions, lines = [new_id() for _ in range(3)], []
    calls: dict[str, LedgerCall] = {}
    sizes, expected = [0], [list[LedgerCall]()]
    for kind, number in steps:
        open_calls = [call.reservation for call in calls.values() if call.settlement is None]
        if kind == "reserve":
            call = LedgerCall(reservation(executions[number]))
            lines.append(reserved_line(call.reservation))
        elif open_calls:
            call = settled(open_calls[number % len(open_calls)])
            assert call.settlement is not None
            lines.append(settled_line(call.settlement))
        else:
            continue
        calls[call.reservation.call_id] = call
        sizes.append(sizes[-1] + len(lines[-1]))
        expected.append([call for call in calls.values() if call.reservation.execution_id == executions[0]])
    scan = MonthScan(path, block_size)
    write(path, b"".join(lines))
    for moment in (cut % len(sizes), len(sizes) - 1):
        assert list(scan.calls(executions[0], sizes[moment])) == expected[moment]


def test_what_is_added_is_found_and_what_follows_is_not_looked_at(path: Path) -> None:
    calls = [settled(reservation(OWN)) for _ in range(4)]
    first, all_of_it = lines_of(calls[:2]), lines_of(calls[:2]) + lines_of(calls[2:])
    scan = MonthScan(path)
    assert list(scan.calls(OWN, write(path, first))) == calls[:2]
    write(path, all_of_it + b"\0" * 40)
    assert list(scan.calls(OWN, len(all_of_it))) == calls
    assert list(scan.calls(OWN, len(first))) == calls[:2]


@pytest.mark.parametrize("looked_before", [False, True])
@pytest.mark.parametrize("execution_id", [OWN, OTHER])
def test_what_is_damaged_is_noticed_whosever_it_is(path: Path, execution_id: str, looked_before: bool) -> None:
    whole = lines_of([settled(reservation(OWN)), settled(reservation(OTHER))])
    size, scan = write(path, whole), MonthScan(path)
    if looked_before:
        assert len(scan.calls(OWN, size)) == 1
    damaged = whole.replace(OTHER.encode(), new_id().encode())
    write(path, damaged)
    for _ in range(2):
        with pytest.raises(StoredDataDamaged) as raised:
            scan.calls(execution_id, size)
        assert "checksum" in raised.value.fault
    write(path, whole[:-1])
    with pytest.raises(StoredDataDamaged) as raised:
        scan.calls(execution_id, size)
    assert "not there" in raised.value.fault
    write(path, whole)
    assert len(scan.calls(execution_id, size)) == 1


def test_another_whole_file_in_its_place_is_no_damage(path: Path) -> None:
    scan = MonthScan(path)
    for _ in range(2):
        call = settled(reservation(OWN))
        assert list(scan.calls(OWN, write(path, lines_of([call])))) == [call]


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FileSystemStorage]:
    backend = FileSystemStorage(tmp_path)
    await backend.start()
    yield backend
    await backend.stop()


async def project_with_a_call(storage: FileSystemStorage) -> Project:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await call_of(storage, project)
    return project


async def call_of(storage: FileSystemStorage, project: Project, at: datetime = NOW) -> None:
    call = settled(reservation(OWN, at))
    await storage.ledger.reserve(project.id, at, lambda _: call.reservation)
    assert call.settlement is not None
    await storage.ledger.settle(project.id, call.settlement)


async def test_months_outside_are_not_read(storage: FileSystemStorage, tmp_path: Path) -> None:
    """Neither older nor newer ones; and one whose totals are on file is checked when it is."""
    project = await project_with_a_call(storage)
    await call_of(storage, project, LATER)
    await FileSystemStorage(tmp_path).ledger.totals(project.id, LATER)
    march = tmp_path / project.id / "ledger" / "2026-03.jsonl"
    march.write_bytes(march.read_bytes().replace(b'"cost":"0.5"', b'"cost":"0.4"'))
    fresh = FileSystemStorage(tmp_path)
    await fresh.ledger.totals(project.id, LATER)
    assert len(await fresh.ledger.calls(project.id, OWN, LATER)) == 1
    with pytest.raises(StoredDataDamaged):
        await fresh.ledger.calls(project.id, OWN, NOW)
    with pytest.raises(StoredDataDamaged):
        await fresh.ledger.calls(project.id, OWN, NOW, NOW)


async def test_others_do_not_wait_for_many_looks_at_one_ledger(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those who look at the ledger of another project; and nobody looks for those who went away."""
    busy, other = await project_with_a_call(storage), await project_with_a_call(storage)
    looks, begun, go = [0], threading.Event(), threading.Event()
    calls = LedgerFiles.calls

    def slow(ledger: LedgerFiles, *arguments: object) -> object:
        if busy.id in str(ledger._directory):
            looks[0] += 1
            begun.set()
            assert go.wait(DEADLINE_SECONDS)
        return calls(ledger, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(LedgerFiles, "calls", slow)
    waiting = [asyncio.create_task(storage.ledger.calls(busy.id, OWN, NOW)) for _ in range(40)]
    try:
        assert await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert len(await storage.ledger.calls(other.id, OWN, NOW)) == 1
            await storage.projects.list(10)
            await call_of(storage, busy)
        for gone in waiting[2:]:
            gone.cancel()
        await asyncio.wait(waiting[2:])
    finally:
        go.set()
    assert [len(found) for found in await asyncio.gather(*waiting[:2])] == [1, 2]
    assert looks == [2]
