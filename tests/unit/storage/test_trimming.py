"""Trimmed logs on disk: crashes, readers, other processes, the doctor."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.errors import CursorOutOfRange
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.doctor import Folder, examine
from cloutagent_server.storage.filesystem.log import ExecutionLog
from tests.support import builders
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
