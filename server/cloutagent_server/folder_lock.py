"""Folders of servers: projects, which several servers share, and runs, where each server has a directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from cloutagent_server.domain.identifiers import is_id, new_id

log: Final = logging.getLogger(__name__)

_LOCK: Final = ".server.lock"
_PREFIX: Final = "server-"
_PATIENCE_SECONDS: Final = 30.0


class FolderInUse(Exception):
    """A folder is used for something else already."""


def check_apart(projects: Path, runs: Path) -> None:
    """Make sure that the folder of runs, which is swept at every start, holds no projects.

    Raises:
        FolderInUse: It is a folder of projects, or lies in one, or one lies in it.
    """
    if any((folder / ".index").exists() or (folder / ".key-check.json").exists() for folder in (runs, *runs.parents)):
        raise FolderInUse(f"RUN_ROOT: {runs} is or lies in a folder of projects; it needs a folder of its own")
    if projects == runs or runs in projects.parents:
        raise FolderInUse(f"RUN_ROOT: {runs} holds PROJECT_ROOT; it needs a folder of its own")


@contextmanager
def run_directory(runs: Path, reap: Callable[[Path], None]) -> Iterator[Path]:
    """A directory in `runs` for this server alone, removed at the end; first, what dead servers left is cleared away.

    A lock in each directory tells whether its server lives; it goes with the process, however that ends. `reap` ends
    and removes what is in a dead server's directory; it gets an empty one at the end of this.

    Raises:
        FolderInUse: Another server that starts does not get on.
        OSError: The directory cannot be made or written to.
    """
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = runs / (_PREFIX + new_id()[:8])
    try:
        with FileLock(runs / _LOCK, timeout=_PATIENCE_SECONDS, mode=0o600):
            for directory in [entry for entry in runs.iterdir() if _is_run_directory(entry.name)]:
                _reap_dead(directory, reap)
            path.mkdir(mode=0o700)
            lock = FileLock(path / _LOCK, mode=0o600)
            lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUse(f"RUN_ROOT: another server that starts keeps {runs / _LOCK}") from None
    try:
        yield path
    finally:
        reap(path)
        lock.release()


def _is_run_directory(name: str) -> bool:
    """Whether it is a server's directory, or a run's: these stood here when a folder of runs had one server."""
    return name.startswith(_PREFIX) or is_id(name)


def _reap_dead(directory: Path, reap: Callable[[Path], None]) -> None:
    lock = directory / _LOCK
    if lock.exists():
        held = FileLock(lock, mode=0o600)
        try:
            held.acquire(timeout=0)
        except Timeout:
            return
        held.release()
    try:
        reap(directory)
    except OSError as fault:
        # What a dead server's agents left must not keep this one from starting.
        log.warning(
            "a dead server's directory was not removed", extra={"directory": str(directory), "fault": repr(fault)}
        )
