"""Locks that other processes on the same folder honour."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock, Timeout

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.storage.filesystem.offload import off_loop

T = TypeVar("T")

PATIENCE: Final = 30.0
_RETRY: Final = 0.01
# Whoever waits for a lock that is free takes it within this time.
MOMENT: Final = 2 * _RETRY
# How long those who came later let one go first who waits to be alone, before they take a turn that lasts as long.
_PRECEDENCE: Final = 1.0
_FLOCK: Final = struct.Struct("@hhqqi4x")


class Locks:
    """The locks of one folder.

    Each project has a lock for whoever changes its files. It is one of 256, chosen by the identifier, so that lock
    files neither grow in number nor have to be removed while somebody waits for them.

    The store lock is shared by everybody who changes several files, and exclusive to whoever cleans up: so whatever
    is half done under the exclusive lock was left by a crash. Whoever waits to be alone marks its file, and nobody
    begins to share it beside a mark: so the sharers come to an end, however many there are and however little they
    pause.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._store = directory / "store.lock"
        self._in_process = tuple(asyncio.Lock() for _ in range(256))
        self._file_locks: dict[int, FileLock] = {}

    async def run_for_project(self, project_id: str, work: Callable[[], T]) -> T:
        """Do blocking work off the event loop while nobody else works for this project.

        Raises:
            StorageUnavailable: The work met an OSError, or another process kept the lock for 30 seconds.
        """

        def locked_work() -> T:
            with self.holding_project(project_id):
                return work()

        async with self._in_process[_stripe(project_id)]:
            return await off_loop(locked_work, waits=True)

    @contextmanager
    def holding_project(self, project_id: str) -> Iterator[None]:
        """Keep other processes, and other `Locks` of this one, from working for a project. Blocks.

        Raises:
            StorageUnavailable: Another process kept the lock for 30 seconds.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self._file_lock(_stripe(project_id)).acquire(PATIENCE))
            except Timeout as fault:
                raise StorageUnavailable(f"another process keeps {fault.lock_file}") from fault
            held.enter_context(self.sharing())
            yield

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Hold the store lock together with others. Blocks, also while somebody waits to hold it alone.

        Whoever holds it must not wait for anybody who is about to share it, and so not share it twice: one who waits to
        be alone may stand between the two.

        Raises:
            StorageUnavailable: Others kept the lock for 30 seconds.
        """
        with self._holding_store(_share):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store lock alone, as soon as those who share it have ended. Blocks.

        Those who want to share it meanwhile wait for a second, and then have a second in which they do not, and so on:
        a single slow one, or one that hangs, does not stop all the others with it.

        Raises:
            StorageUnavailable: Others kept the lock for 30 seconds.
        """
        with self._holding_store(_exclude) as descriptor:
            try:
                yield
            finally:
                _unmark(descriptor)

    def _file_lock(self, stripe: int) -> FileLock:
        lock = self._file_locks.get(stripe)
        if lock is None:
            made = FileLock(self._directory / f"{stripe:02x}.lock", mode=0o600, poll_interval=_RETRY)
            lock = self._file_locks.setdefault(stripe, made)
        return lock

    @contextmanager
    def _holding_store(self, take: Callable[[int, Path], None]) -> Iterator[int]:
        descriptor = os.open(self._store, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take(descriptor, self._store)
            try:
                yield descriptor
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _stripe(project_id: str) -> int:
    return int(project_id[:2], 16)


def _share(descriptor: int, path: Path) -> None:
    """Take the store lock together with others, after those who want it alone."""

    def take() -> None:
        met, _ = _range(descriptor, fcntl.F_OFD_GETLK, fcntl.F_RDLCK, 0)
        if met != fcntl.F_UNLCK:
            raise BlockingIOError
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    _insist(take, path, time.monotonic() + PATIENCE)


def _exclude(descriptor: int, path: Path) -> None:
    """Take the store lock alone and leave it marked.

    The mark is a lock on a range, which sharers only ask for: so they never stand in its way, and it goes with its
    process. It excludes nobody, the flock does: a server that does not know of marks is safe beside it.
    """
    deadline = time.monotonic() + PATIENCE
    _insist(lambda: _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, 0), path, deadline)
    # Read, the mark stops no sharer, and still keeps others who want to be alone from putting theirs.
    for kind in itertools.cycle((fcntl.F_RDLCK, fcntl.F_WRLCK)):
        turn = min(deadline, time.monotonic() + _PRECEDENCE)
        try:
            _insist(lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB), path, turn)
            return
        except StorageUnavailable:
            if turn == deadline:
                _unmark(descriptor)
                raise
            _range(descriptor, fcntl.F_OFD_SETLK, kind, 0)


def _unmark(descriptor: int) -> None:
    _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0)


@contextmanager
def holding(descriptor: int, kind: int, path: Path, seconds: float = PATIENCE) -> Iterator[None]:
    """Hold an advisory lock (`fcntl.LOCK_SH` or `LOCK_EX`) on an open file. Blocks.

    Raises:
        StorageUnavailable: Another process kept it for so many seconds. `path` names it.
    """
    _insist(lambda: fcntl.flock(descriptor, kind | fcntl.LOCK_NB), path, time.monotonic() + seconds)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def sharing_file(path: Path, seconds: float = PATIENCE) -> Iterator[int]:
    """Hold the lock of a file that is there together with others; gives its descriptor, open for reading. Blocks.

    Raises:
        OSError: It is not there, or cannot be read.
        StorageUnavailable: Another process kept the lock for so many seconds.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with holding(descriptor, fcntl.LOCK_SH, path, seconds):
            yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def uncommitted(descriptor: int, start: int, path: Path) -> Iterator[None]:
    """Mark a file, open for writing, as not yet committed from the offset `start` on. Blocks for moments only.

    The mark is a lock on that range, so it goes with its process.

    Raises:
        StorageUnavailable: A process that asked how far the file is committed was stopped in the middle of it.
    """
    _insist(lambda: _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, start), path, time.monotonic() + PATIENCE)
    try:
        yield
    finally:
        _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start)


def committed_size(descriptor: int) -> int:
    """Up to which offset an open file is committed: its size, or less while somebody writes. Waits for nobody."""
    while True:
        try:
            _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, 0)
        except BlockingIOError:
            kind, start = _range(descriptor, fcntl.F_OFD_GETLK, fcntl.F_RDLCK, 0)
            if kind == fcntl.F_WRLCK:
                return start
        else:
            try:
                return os.fstat(descriptor).st_size
            finally:
                _range(descriptor, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0)


def _range(descriptor: int, command: int, kind: int, start: int) -> tuple[int, int]:
    """Set or look at a lock from `start` to the end of a file. Gives the kind and the start of the one met."""
    answer = fcntl.fcntl(descriptor, command, _FLOCK.pack(kind, os.SEEK_SET, start, 0, 0))
    met, _, met_start, _, _ = _FLOCK.unpack(answer)
    return met, met_start


def _insist(take: Callable[[], object], path: Path, deadline: float) -> None:
    while True:
        try:
            take()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"another process keeps {path}") from None
            time.sleep(_RETRY)
        else:
            return
