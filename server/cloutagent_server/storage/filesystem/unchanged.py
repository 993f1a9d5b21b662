"""What files held when they were read last, for as long as they are the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_MOST_FILES: Final = 4_096
# Two changes within one tick of the file system's clock, at most a second, could leave the same times.
_SETTLED_NS: Final = 2_000_000_000


class Unchanged(Generic[T]):
    """Values of files that are replaced as a whole, by their paths. For any thread."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, ...], T]] = {}

    def get(self, path: Path) -> T | None:
        """What the file holds, if it is as it was when that was read; None otherwise.

        Asks the kernel for what it has in memory, and nothing else, so that it may be called on the event loop.
        """
        known = self._known.get(path)
        return known[1] if known is not None and known[0] == _mark(path) else None

    def read(self, path: Path, load: Callable[[], T | None]) -> T | None:
        """Load what the file holds, and know it from then on. Blocks; passes on what `load` raises."""
        # From before: a file that is replaced while it is read has another one afterwards.
        mark = _mark(path)
        value = load()
        if value is None or mark is None:
            self._known.pop(path, None)
        else:
            if len(self._known) >= _MOST_FILES:
                self._known.clear()
            self._known[path] = (mark, value)
        return value


def _mark(path: Path) -> tuple[int, ...] | None:
    """What differs when a file is another one, or was changed; None while it may be changed without a trace."""
    try:
        status = path.stat()
    except OSError:
        return None
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
        return None
    return (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
        status.st_dev,
    )
