"""The folder in which backups are kept."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cloutagent_server.storage.filesystem import files

_NAME: Final = re.compile(r"cloutagent-(\d{8}T\d{6}\.\d{3})Z\.tar\.gz")
_TIME: Final = "%Y%m%dT%H%M%S.%f"


def path_at(directory: Path, time: datetime) -> Path:
    """Where a backup of this moment is kept; names sort by time, down to the millisecond."""
    return directory / f"cloutagent-{time.astimezone(UTC).strftime(_TIME)[:-3]}Z.tar.gz"


def newest(directory: Path) -> datetime | None:
    """When the newest backup was made, by its name; None if there is none."""
    times = [found.group(1) for name in files.names_in(directory) if (found := _NAME.fullmatch(name))]
    return datetime.strptime(max(times), _TIME).replace(tzinfo=UTC) if times else None


def prune(directory: Path, keep: int) -> None:
    """Remove all backups but the newest `keep`, and what crashes left of unfinished ones. Other files stay."""
    names = sorted(filter(_NAME.fullmatch, files.names_in(directory)))
    for name in names[:-keep]:
        (directory / name).unlink(missing_ok=True)
    for name in files.names_in(directory):
        if _NAME.fullmatch(name.removeprefix(files.TEMPORARY_PREFIX)) and name.startswith(files.TEMPORARY_PREFIX):
            _remove_if_left(directory / name)
    files.sync_directory(directory)


def _remove_if_left(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        os.fsync(file.fileno())
