"""Takes secret values out of what an execution shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

REDACTED: Final = "[REDACTED]"
TOO_DEEP: Final = "[…]"
MAX_DEPTH: Final = 30
_TELLING_CHARACTERS: Final = 8


class Redactor:
    """Replaces every occurrence of some values by `[REDACTED]`. Empty values are not replaced."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = sorted({value for value in values if value}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._values))) if self._values else None

    def text(self, text: str) -> str:
        """`text` without the values."""
        return text if self._pattern is None else self._pattern.sub(REDACTED, text)

    def whole(self, text: str) -> str:
        """`text`, with nothing to follow it, without the values; nor does it end with the beginning of one."""
        stream = self.stream()
        return stream.push(text) + stream.flush()

    def document(self, value: object, depth: int = 0) -> object:
        """A JSON value whose texts, keys included, are without the values; a number that spells one becomes a text.

        What is nested deeper than 30 levels is left out, since not every reader of events takes it.
        """
        if depth > MAX_DEPTH:
            return TOO_DEEP
        match value:
            case str():
                return self.text(value)
            case int() | float() if not isinstance(value, bool):
                spelled = str(value)
                shown = self.text(spelled)
                return value if shown == spelled else shown
            case Mapping():
                return {self.text(str(key)): self.document(item, depth + 1) for key, item in value.items()}
            case list() | tuple():
                return [self.document(item, depth + 1) for item in value]
            case _:
                return value

    def stream(self) -> RedactedStream:
        """A stream of text that comes in pieces."""
        return RedactedStream(self)

    def begins_value(self, text: str) -> bool:
        """Whether a value begins with `text`."""
        return any(value.startswith(text) for value in self._values)

    def settled(self, text: str) -> int:
        """How much of the start of `text` can be redacted now, whatever follows it."""
        longest = len(self._values[0]) - 1 if self._values else 0
        cut = len(text)
        for start in range(max(0, len(text) - longest), len(text)):
            if any(value.startswith(text[start:]) for value in self._values):
                cut = start
                break
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            if match.start() < cut < match.end():
                return match.start()
        return cut


class RedactedStream:
    """Text in pieces, also where a value is split over several of them: what could become a value is held back."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def push(self, piece: str) -> str:
        """Add a piece; returns what can be shown now, possibly nothing."""
        text = self._held + piece
        cut = self._redactor.settled(text)
        self._held = text[cut:]
        return self._redactor.text(text[:cut])

    def flush(self) -> str:
        """End the stream; returns what was held back.

        What was held back may be the beginning of a value that was cut off. From 8 characters on it is redacted;
        less tells little, and is more likely to be ordinary text.
        """
        text, self._held = self._held, ""
        if len(text) >= _TELLING_CHARACTERS and self._redactor.begins_value(text):
            return REDACTED
        return self._redactor.text(text)
