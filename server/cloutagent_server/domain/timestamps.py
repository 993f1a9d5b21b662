"""Points in time: UTC, and RFC 3339 text with a `Z` wherever they are written."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The current time in UTC, in whole milliseconds, so that every form of it reads back the same."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def to_text(time: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, for example `2026-01-31T12:00:00.000Z`."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return f"{time.isoformat(timespec='milliseconds')[:-6]}Z"


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote. Raises ValueError for anything that is not RFC 3339 with an offset."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return time.astimezone(UTC)
