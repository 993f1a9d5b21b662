"""One server for one folder: a lock that is held as long as the server lives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class FolderInUse(Exception):
    """Another server holds the folder."""


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
def held(folder: Path, setting: str) -> Iterator[None]:
    """Hold `folder`, which the setting of this name gives. When the process dies, however it dies, it is free again.

    Raises:
        FolderInUse: Another process holds it.
        OSError: It cannot be made or written to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(folder / ".server.lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise FolderInUse(f"{setting}: another server runs on {folder}; give this one a folder of its own") from None
    try:
        yield
    finally:
        lock.release()
