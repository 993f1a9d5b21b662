"""Group commit: text deltas are synced together, 50 ms after the first of them that is not durable yet."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.delayed_sync import DELAY_SECONDS
from tests.support import builders

SLACK = 0.15
WINDOWS = 8


@dataclass
class Syncs:
    """The calls of fdatasync, by inode: when each began and how large the file was then.

    `before` is called in front of each real one.
    """

    begun: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    before: Callable[[int], None] = lambda inode: None

    def of(self, path: Path) -> list[tuple[float, int]]:
        """Those of one file."""
        return list(self.begun.get(path.stat().st_ino, ()))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    found, real = Syncs(), os.fdatasync

    def counted(descriptor: int) -> None:
        status = os.fstat(descriptor)
        found.begun.setdefault(status.st_ino, []).append((time.monotonic(), status.st_size))
        found.before(status.st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    return found


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_the_delay_is_the_one_that_is_promised() -> None:
    assert DELAY_SECONDS == 0.05


async def test_what_comes_in_one_window_is_synced_once_at_its_end(
    storage: FileSystemStorage, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    """The machine may be slow, so the shortest of several windows tells the delay, and none may be shorter."""
    first = time.monotonic()
    appended = 0
    while len(syncs.of(log_path)) < WINDOWS:
        assert time.monotonic() < first + 60
        await storage.executions.append(builders.texts(execution.id, 1, after=appended))
        appended += 1
        await asyncio.sleep(0.003)
    last, size = time.monotonic(), log_path.stat().st_size
    await until(lambda: syncs.of(log_path)[-1][1] == size)
    begun = [moment for moment, _ in syncs.of(log_path)]
    delays = [later - earlier for earlier, later in pairwise([first, *begun])]
    assert min(delays) >= DELAY_SECONDS
    assert min(delays) < DELAY_SECONDS + SLACK
    assert len(begun) <= (last - first) / DELAY_SECONDS + 1
    assert appended > 2 * len(begun)


async def test_a_delta_alone_is_synced_and_nothing_after_it(
    storage: FileSystemStorage, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    waits = []
    for number in range(5):
        before = time.monotonic()
        await storage.executions.append(builders.texts(execution.id, 1, after=number))
        assert len(syncs.of(log_path)) == number, "nobody waits for the sync of a delta"
        await until(lambda number=number: len(syncs.of(log_path)) > number)  # type: ignore[misc]
        moment, size = syncs.of(log_path)[-1]
        assert size == log_path.stat().st_size
        waits.append(moment - before)
    assert DELAY_SECONDS <= min(waits) < DELAY_SECONDS + SLACK
    # A window in which nothing was appended has no sync.
    await asyncio.sleep(2 * DELAY_SECONDS)
    assert len(syncs.of(log_path)) == 5


async def test_each_log_has_a_sync_of_its_own(
    storage: FileSystemStorage, project: Project, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    other = await storage.executions.create(builders.execution(project.id))
    other_path = log_path.parents[1] / other.id / log_path.name
    idle = await storage.executions.create(builders.execution(project.id))
    for number in range(3):
        await storage.executions.append(builders.texts(execution.id, 1, after=number))
        await storage.executions.append(builders.texts(other.id, 1, after=number))
    for path in (log_path, other_path):
        await until(lambda path=path: bool(syncs.of(path)) and syncs.of(path)[-1][1] == path.stat().st_size)  # type: ignore[misc]
    assert syncs.of(log_path.parents[1] / idle.id / log_path.name) == []


async def test_what_comes_during_a_sync_gets_the_next_one(
    storage: FileSystemStorage, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    inode, go_on = log_path.stat().st_ino, threading.Event()
    syncs.before = lambda synced: None if synced != inode else assert_waited(go_on)
    await storage.executions.append(builders.texts(execution.id, 1))
    await until(lambda: len(syncs.of(log_path)) == 1)
    await storage.executions.append(builders.texts(execution.id, 1, after=1))
    go_on.set()
    await until(lambda: len(syncs.of(log_path)) == 2)
    assert syncs.of(log_path)[-1][1] == log_path.stat().st_size


def assert_waited(event: threading.Event) -> None:
    assert event.wait(10)


async def test_a_stop_syncs_what_is_due(
    storage: FileSystemStorage, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    assert syncs.of(log_path) == []
    await storage.stop()
    [(_, size)] = syncs.of(log_path)
    assert size == log_path.stat().st_size


async def test_what_is_durable_at_once_needs_no_delayed_sync(
    storage: FileSystemStorage, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.started(), builders.message("x")]))
    await storage.stop()
    assert syncs.of(log_path) == []


async def test_a_sync_that_is_refused_is_logged_and_the_others_go_on(
    storage: FileSystemStorage, project: Project, execution: Execution, log_path: Path, syncs: Syncs
) -> None:
    other = await storage.executions.create(builders.execution(project.id))
    other_path = log_path.parents[1] / other.id / log_path.name
    inode = log_path.stat().st_ino

    def refuse(synced: int) -> None:
        if synced == inode:
            raise OSError(errno.EIO, "refused")

    syncs.before = refuse
    with capture_logs() as logged:
        for number in range(3):
            await storage.executions.append(builders.texts(execution.id, 1, after=number))
            await storage.executions.append(builders.texts(other.id, 1, after=number))
            for path in (log_path, other_path):
                await until(lambda path=path: bool(syncs.of(path)) and syncs.of(path)[-1][1] == path.stat().st_size)  # type: ignore[misc]
        await storage.stop()
    assert {entry["event"] for entry in logged} == {"log_not_synced"}
    assert {entry["execution_id"] for entry in logged} == {execution.id}
    assert len(logged) == len(syncs.of(log_path)) >= 3
