"""Text for people: what others wrote is made harmless here, and numbers get their units."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

# Controls but line feed and tab, and what turns the direction of writing: a terminal acts on them.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text without what a terminal would act on but line feeds and tabs."""
    return _CONTROLS.sub("", text)


def one_line(text: str, longest: int | None = None) -> str:
    """The text on one line, cut at so many characters."""
    line = " ".join(clean(text).split())
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def money(dollars: float) -> str:
    """US dollars: cents, or as many digits as a small amount needs to be told from nothing."""
    if dollars >= 1 or abs(dollars - round(dollars, 2)) < 1e-9:
        return f"${dollars:,.2f}"
    return f"${dollars:.4f}" if dollars >= 0.01 else f"${dollars:.6f}"


def count(number: float) -> str:
    """A whole number with commas."""
    return f"{round(number):,}"


def duration(milliseconds: float) -> str:
    """A length of time: `1.2 s`, `3 min 5 s`, `2 h 10 min`."""
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def local_time(time: Timestamp) -> str:
    """A point in time in the time zone of this machine, to the second."""
    return datetime.fromtimestamp(time.seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(time: Timestamp) -> str:
    """How long ago a point in time is, in its largest unit."""
    seconds = max(0, round(datetime.now(UTC).timestamp()) - time.seconds)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def percent(part: float, whole: float) -> float:
    """A part as a percentage of the whole; of nothing, 0."""
    return 100 * part / whole if whole > 0 else 0.0
