"""Files that have a key: read only if nobody else can read or change them, as far as the system tells."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cloutagent.cli.endings import CommandError


def read_own(path: Path) -> str:
    """What a regular file of this user has; a pipe is not waited for. Raises CommandError, OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise CommandError(f"{path} is not a file: remove it and log in again")
        must_be_own(path, found, others=stat.S_IRWXG | stat.S_IRWXO)
        with open(descriptor, encoding="utf-8", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def must_be_own(path: Path, found: os.stat_result, *, others: int) -> None:
    """Raises CommandError if it belongs to another user, or if others have one of these permissions."""
    if os.name != "posix":
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise CommandError(f"{path} belongs to another user: nothing is read from it")
    if not found.st_mode & others:
        return
    if stat.S_ISDIR(found.st_mode):
        raise CommandError(f"others can write to {path}, which has keys: chmod 700 it, and look at what is in it")
    raise CommandError(f"others can read {path}, which has a key: chmod 600 it, and revoke the key")
