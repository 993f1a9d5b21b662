"""The ledger on disk: what a crash leaves, what others write, what is damaged, and what need not be read again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zlib import crc32

import pytest

from cloutagent_server.domain.cost import Model, TokenUsage
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.ledger import Amount, Reservation, Settlement, Window
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.ledger_records import read_line, settled_line
from tests.support import builders

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=3)
MODEL = "claude-sonnet-4-5"
SETTLED = Settlement("", TokenUsage(30, 10, MODEL), Decimal("0.1"), "prices 1")
PRICES = Model(MODEL, "Sonnet 4.5", Decimal("0.000003"), Decimal("0.000015"), None, Decimal("0.00000375"), 200_000)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FileSystemStorage]:
    backend = FileSystemStorage(tmp_path)
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def project(storage: FileSystemStorage) -> Project:
    return await storage.projects.create(builders.project_draft(), builders.credential())


async def reserve(storage: FileSystemStorage, project: Project, at: datetime = NOW) -> Reservation:
    call = Reservation("e", new_id(), TokenUsage(99, 1, MODEL), Decimal("0.5"), at)
    await storage.ledger.reserve(project.id, at, lambda _: call)
    return call


async def settle(storage: FileSystemStorage, project: Project, call: Reservation) -> None:
    assert await storage.ledger.settle(project.id, replace(SETTLED, call_id=call.call_id))


def month(tmp_path: Path, project: Project, name: str = "2026-03.jsonl") -> Path:
    return tmp_path / project.id / "ledger" / name


async def total(storage: FileSystemStorage, project: Project, at: datetime = NOW) -> Window:
    return (await storage.ledger.totals(project.id, at)).total


async def test_another_process_sees_and_settles_what_this_one_reserved(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    other = FileSystemStorage(tmp_path)
    call = await reserve(storage, project)
    assert (await total(other, project)).reserved == call.amount
    await settle(other, project, call)
    assert await total(storage, project) == Window(Amount(40, Decimal("0.1")))
    again = await reserve(storage, project)
    assert (await total(other, project)).reserved == again.amount


async def test_the_line_is_written_before_the_wait_for_the_disk(
    storage: FileSystemStorage, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever uses the time of that wait has it for itself: nothing else of the reservation is left to do."""
    order: list[str] = []
    sync = os.fdatasync

    def syncing(descriptor: int) -> None:
        order.append("sync")
        sync(descriptor)

    def storing() -> None:
        order.append("storing")
        assert month(tmp_path, project).read_bytes().endswith(b"}\n")

    await reserve(storage, project)
    monkeypatch.setattr(os, "fdatasync", syncing)
    call = Reservation("e", new_id(), TokenUsage(99, 1, MODEL), Decimal("0.5"), NOW)
    await storage.ledger.reserve(project.id, NOW, lambda _: call, storing)
    assert order == ["storing", "sync"]


async def test_a_line_of_the_first_version_is_read_and_followed_by_newer_ones(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    old, new = await reserve(storage, project), await reserve(storage, project)
    path = month(tmp_path, project)
    first = path.read_bytes().replace(b'"schemaVersion":2', b'"schemaVersion":1').split(b"\n")
    settled = (
        b'{"schemaVersion":1,"kind":"settled","callId":"%b","model":"%b","promptTokens":30,"completionTokens":10,'
        b'"cost":"0.1","priceVersion":"prices 1","estimated":false' % (old.call_id.encode(), MODEL.encode())
    )
    bodies = [*(line.rpartition(b',"checksum"')[0] for line in first[:2]), settled]
    path.write_bytes(b"".join(b'%b,"checksum":"%08x"}\n' % (body, crc32(body)) for body in bodies))
    other = FileSystemStorage(tmp_path)
    assert await other.ledger.settle(project.id, replace(SETTLED, call_id=new.call_id, prices=PRICES))
    calls = await other.ledger.calls(project.id, "e", NOW)
    assert [call.settlement for call in calls] == [
        replace(SETTLED, call_id=old.call_id),
        replace(SETTLED, call_id=new.call_id, prices=PRICES),
    ]
    assert await total(storage, project) == Window(Amount(80, Decimal("0.2")))


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        (b'"displayName":"Sonnet 4.5"', b'"displayName":"Sonnet 4.5","surcharge":"1"', "prices.surcharge"),
        (b'"promptTokenPrice":"0.000003"', b'"promptTokenPrice":"-0.000003"', "promptTokenPrice"),
        (b'"contextWindow":200000', b'"contextWindow":true', "prices.contextWindow"),
        (b'"prices":{', b'"prices":0,"more":{', "Extra data"),
        (b'"estimated":false', b'"estimated":0', "estimated"),
        (b'"promptTokens":30', b'"promptTokens":-1', "promptTokens"),
        (b'"promptTokens":30', b'"promptTokens":9223372036854775808', "promptTokens"),
        (b'"priceVersion":"prices 1"', b'"priceVersion":1', "priceVersion"),
    ],
)
def test_a_line_of_another_form_is_refused_though_its_checksum_fits(written: bytes, instead: bytes, told: str) -> None:
    """Such is one that a later version wrote and that means something else."""
    line = settled_line(replace(SETTLED, call_id="c", prices=PRICES)).rstrip(b"\n")
    assert read_line(line) == replace(SETTLED, call_id="c", prices=PRICES)
    body = line.rpartition(b',"checksum"')[0].replace(written, instead)
    with pytest.raises(ValueError, match=told):
        read_line(b'%b,"checksum":"%08x"}' % (body, crc32(body)))


@pytest.mark.parametrize("left", [b'{"schemaVersion":1,"kind":"reser', b"\0" * 40, b"\0" * 40 + b"\n"])
async def test_what_a_crash_left_at_the_end_is_no_record_and_is_cut(
    storage: FileSystemStorage, project: Project, tmp_path: Path, left: bytes
) -> None:
    call = await reserve(storage, project)
    path = month(tmp_path, project)
    whole = path.read_bytes()
    path.write_bytes(whole + left)
    assert (await total(FileSystemStorage(tmp_path), project)).reserved == call.amount
    await settle(storage, project, call)
    assert path.read_bytes().startswith(whole) and left.strip(b"\n") not in path.read_bytes().split(b"\n")
    assert await total(FileSystemStorage(tmp_path), project) == Window(Amount(40, Decimal("0.1")))


async def test_a_changed_record_is_damage_and_nothing_is_reserved_on_it(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    await settle(storage, project, await reserve(storage, project))
    await reserve(storage, project)
    path = month(tmp_path, project)
    content = path.read_bytes().replace(b'"cost":"0.1"', b'"cost":"0.0"', 1)
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoredDataDamaged):
            await reserve(FileSystemStorage(tmp_path), project)
    assert path.read_bytes() == content


async def test_a_last_record_that_was_altered_is_damage_and_not_what_a_crash_left(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    """A crash leaves part of a line, or zeros. A line that is whole was acknowledged, whatever became of it since."""
    await settle(storage, project, await reserve(storage, project))
    path = month(tmp_path, project)
    whole = path.read_bytes()
    for place in range(whole.index(b"\n") + 1, len(whole) - 1, 7):
        content = whole[:place] + bytes([whole[place] ^ 0x04]) + whole[place + 1 :]
        path.write_bytes(content)
        with pytest.raises(StoredDataDamaged):
            await reserve(FileSystemStorage(tmp_path), project)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    assert await total(FileSystemStorage(tmp_path), project) == Window(Amount(40, Decimal("0.1")))


async def test_a_month_that_is_over_is_not_read_again(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    await settle(storage, project, await reserve(storage, project))
    totals = month(tmp_path, project, "2026-03.totals.json")
    expected = await total(FileSystemStorage(tmp_path), project, LATER)
    assert totals.exists()
    path = month(tmp_path, project)
    path.write_bytes(path.read_bytes().replace(b'"cost":"0.5"', b'"cost":"0.4"'))
    assert await total(FileSystemStorage(tmp_path), project, LATER) == expected
    totals.unlink()
    with pytest.raises(StoredDataDamaged):
        await total(FileSystemStorage(tmp_path), project, LATER)


async def test_totals_of_another_log_are_not_believed(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    await settle(storage, project, await reserve(storage, project))
    await total(FileSystemStorage(tmp_path), project, LATER)
    call = await reserve(storage, project)
    assert (await total(FileSystemStorage(tmp_path), project, LATER)).reserved == call.amount
    month(tmp_path, project, "2026-03.totals.json").write_bytes(b"no json")
    assert (await total(FileSystemStorage(tmp_path), project, LATER)).reserved == call.amount


async def test_a_call_is_settled_in_the_month_that_it_was_reserved_in(
    storage: FileSystemStorage, project: Project, tmp_path: Path
) -> None:
    call = await reserve(storage, project)
    await reserve(storage, project, LATER)
    await settle(storage, project, call)
    assert month(tmp_path, project).read_bytes().count(b"\n") == 2
    found = await FileSystemStorage(tmp_path).ledger.totals(project.id, LATER)
    assert (found.month.settled, found.total.settled) == (Amount(), Amount(40, Decimal("0.1")))
