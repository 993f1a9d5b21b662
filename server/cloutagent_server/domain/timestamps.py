"""Points in time: UTC, and RFC 3339 text with a `Z` wherever they are written."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_SECOND: Final = timedelta(seconds=1)


def now() -> datetime:
    """The current time in UTC, in whole milliseconds, so that every form of it reads back the same."""
    # Seconds with three digits after the point are far from what a float cannot tell apart.
    return datetime.fromtimestamp(time.time_ns() // 1_000_000 / 1000, UTC)


def to_text(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, for example `2026-01-31T12:00:00.000Z`."""
    return f"{_second((moment - _EPOCH) // _SECOND)}.{moment.microsecond // 1000:03}Z"


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote. Raises ValueError for anything that is not RFC 3339 with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return moment.astimezone(UTC)


# Times come in crowds: the events of a run, of all runs.
@lru_cache(maxsize=256)
def _second(number: int) -> str:
    return (_EPOCH + number * _SECOND).isoformat()[:19]
