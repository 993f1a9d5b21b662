"""What is written on the command line, as values."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, Final

from cloutagent.cli.endings import CommandError

# What the API's whole numbers can be.
LARGEST: Final = 2**31 - 1
# So they are in milliseconds.
LONGEST: Final = timedelta(milliseconds=LARGEST)
# What the API takes at most, in bytes.
PROMPT_BYTES: Final = 2**20
SYSTEM_PROMPT_BYTES: Final = 2**18
SECRET_BYTES: Final = 2**16
MESSAGE_BYTES: Final = 4 * 2**20
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[smhdw])?")


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """What `NAME=VALUE` says, once for each name."""
    found = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not name or not separator:
            raise CommandError(f"{option} takes NAME=VALUE")
        found[name] = value
    return found


def length(given: str | None, option: str, longest: timedelta = LONGEST) -> timedelta | None:
    """A length of time: `90`, `90s`, `5min`, `2h`, `7d`; a number alone is seconds."""
    if given is None:
        return None
    found = _DURATION.fullmatch(given.strip())
    if found is None:
        raise CommandError(f"{option} takes a length of time, such as 90s, 5min, 2h or 7d")
    try:
        found_length = timedelta(seconds=float(found[1]) * _UNITS[found[2] or "s"])
    except OverflowError:
        raise CommandError(f"{option}: that is too long") from None
    if found_length > longest:
        raise CommandError(f"{option}: that is too long")
    return found_length


def moment(given: str | None, option: str, *, ahead: bool = False) -> datetime | None:
    """A point in time: `2026-01-31`, `2026-01-31T12:00`, or a length of time before now, with `ahead` after it.

    Without a time zone it is that of this machine.
    """
    if given is None:
        return None
    if _DURATION.fullmatch(given.strip()):
        since = length(given, option, timedelta.max)
        assert since is not None
        try:
            return datetime.now(UTC) + (since if ahead else -since)
        except OverflowError:
            raise CommandError(f"{option}: that is too long") from None
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise CommandError(f"{option} takes a time such as 2026-01-31T12:00, or a length of time such as 2h") from None


def file_text(path: Path, limit: int) -> str:
    """What a file has; `-` is the standard input. No more is read than tells that it is over the limit, in bytes."""
    if str(path) == "-":
        return stdin_text(limit)
    try:
        with path.open("rb") as file:
            return _text(file, limit, str(path))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not text in UTF-8") from None


def stdin_text(limit: int) -> str:
    """All of the standard input, which has so many bytes at most."""
    if sys.stdin is None:
        raise CommandError("the standard input is closed")
    try:
        return _text(sys.stdin.buffer, limit, "the standard input")
    except UnicodeDecodeError:
        raise CommandError("the standard input is not text in UTF-8") from None


def _text(file: BinaryIO, limit: int, name: str) -> str:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise CommandError(f"{name} has more than {limit:,} bytes")
    return content.decode()


def without_line_end(text: str) -> str:
    """The text without the one line end that `echo` puts behind it."""
    return text.removesuffix("\n").removesuffix("\r")
