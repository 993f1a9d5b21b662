"""Trimmed logs on disk: crashes, readers, other processes, the doctor."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import CursorOutOfRange, StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup.create import back_up
from cloutagent_server.storage.filesystem.backup.restore import restore
from cloutagent_server.storage.filesystem.doctor import Folder, examine
from cloutagent_server.storage.filesystem.documents import dump_line
from cloutagent_server.storage.filesystem.log import ExecutionLog
from cloutagent_server.storage.filesystem.log_lines import sealed, unsealed
from tests.support import builders
from tests.support.fake_prices import FakePriceList
from tests.support.folders import leftovers
from tests.unit.storage.conftest import OpenStorage


@pytest.fixture
async def ended(storage: FileSystemStorage, execution: Execution) -> Execution:
    return await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))


async def test_it_is_read_by_other_servers_and_found_sound(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path, ended: Execution, log_path: Path
) -> None:
    other = await open_storage()
    assert len(await other.executions.read_events(ended.id, 0, 100)) == ended.last_sequence
    whole = log_path.stat().st_size
    assert await storage.executions.trim(ended.id)
    assert log_path.stat().st_size < whole
    assert await other.executions.read(ended.id) == ended
    with pytest.raises(CursorOutOfRange):
        await other.executions.read_events(ended.id, 3, 100)
    assert examine(Folder(root)) == []
    assert leftovers(root) == []
    (log_path.parent / "state.json").unlink()
    assert await (await open_storage()).executions.read(ended.id) == ended


async def test_the_digest_outlives_servers_and_comes_with_a_backup(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path, tmp_path: Path, ended: Execution
) -> None:
    whole = await whole_digest(storage, ended)
    assert await storage.executions.trim(ended.id)
    assert await (await open_storage()).executions.trimmed_digest(ended.id) == whole
    target, elsewhere = tmp_path / "backups" / "one.tar.gz", tmp_path / "elsewhere"
    await FileSystemStorage(elsewhere).start()
    back_up(root, target, "1", executions=True)
    restore(target, elsewhere, replace_existing=False, dry_run=False, fault_of=None)
    restored = FileSystemStorage(elsewhere)
    await restored.start()
    assert await restored.executions.trimmed_digest(ended.id) == whole
    await restored.stop()


async def test_a_log_that_an_earlier_version_trimmed_has_no_digest(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path, ended: Execution, log_path: Path
) -> None:
    assert await storage.executions.trim(ended.id)
    change_header(log_path, lambda header: {**header, "schemaVersion": 2, "whole": None})
    other = await open_storage()
    assert await other.executions.trimmed_digest(ended.id) is None
    assert await other.executions.read(ended.id) == ended
    [history] = await other.executions.list_histories()
    assert history.trimmed
    assert not await other.executions.trim(ended.id)
    # Whoever reads the execution derives the state.json that `change_header` took away.
    assert examine(Folder(root)) == []
    last = event_json.decode((await other.executions.read_events(ended.id, ended.last_sequence - 1, 9))[0].data)
    receipt = await ReceiptService(other, FakePriceList()).receipt(ended.id)
    assert (receipt.log.first_sequence, receipt.log.last_sequence) == (last.sequence, last.sequence)
    assert receipt.first_kept_sequence == last.sequence


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"sha256": "x"}, "whole.sha256 is not of the right form"),
        ({"lastSequence": 2}, "whole.lastSequence is not the event that is left"),
        ({"size": 0}, "whole.size is less than 1"),
        ({"more": 1}, "whole.more is not a field of this record"),
    ],
)
async def test_a_digest_that_cannot_be_is_damage(
    storage: FileSystemStorage, root: Path, ended: Execution, log_path: Path, changes: dict[str, Any], fault: str
) -> None:
    assert await storage.executions.trim(ended.id)
    change_header(log_path, lambda header: {**header, "whole": {**header["whole"], **changes}})
    with pytest.raises(StoredDataDamaged) as caught:
        await storage.executions.trimmed_digest(ended.id)
    assert (caught.value.location, caught.value.fault) == (str(log_path), f"first line: {fault}")
    assert [finding.fault for finding in examine(Folder(root))] == [f"first line: {fault}"]


async def whole_digest(storage: FileSystemStorage, execution: Execution) -> LogDigest:
    """The digest of a log that has all its events."""
    events = await storage.executions.read_events(execution.id, 0, 1000)
    data = b"".join(event.data + b"\n" for event in events)
    return LogDigest(hashlib.sha256(data).hexdigest(), 1, execution.last_sequence, len(data))


def change_header(log_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write another first line, with a checksum that fits; fields that are None are left out."""
    first, _, rest = log_path.read_bytes().partition(b"\n")
    header = {name: value for name, value in change(json.loads(unsealed(first))).items() if value is not None}
    log_path.write_bytes(sealed(dump_line(header)[:-1]) + rest)
    # It tells the size of the log.
    (log_path.parent / "state.json").unlink()


async def test_who_has_the_log_open_reads_on(storage: FileSystemStorage, ended: Execution, log_path: Path) -> None:
    log = ExecutionLog(log_path.parent)
    try:
        assert len(log.read(0, 2)) == 2
        assert await storage.executions.trim(ended.id)
        assert [event.sequence for event in log.read(2, 100)] == list(range(3, ended.last_sequence + 1))
    finally:
        log.close()


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("name", ["fsync", "rename", "unlink"])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_crash_leaves_the_old_log_or_the_new(
    storage: FileSystemStorage,
    open_storage: OpenStorage,
    root: Path,
    ended: Execution,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    nth: int,
) -> None:
    owner: Any = os if name == "fsync" else Path
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise Killed
        return real(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, counted)
        with suppress(Killed):
            await storage.executions.trim(ended.id)
    after = await open_storage()
    assert await after.executions.read(ended.id) == ended
    [history] = await after.executions.list_histories()
    if not history.trimmed:
        assert len(await after.executions.read_events(ended.id, 0, 100)) == ended.last_sequence
        assert await after.executions.trim(ended.id)
    assert len(await after.executions.read_events(ended.id, ended.last_sequence - 1, 100)) == 1
    assert {finding.severity.value for finding in examine(Folder(root))} <= {"warning"}
