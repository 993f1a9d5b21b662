"""Takes secret values out of what an execution shows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from cloutagent_server.service.occurrences import Automaton, Search

REDACTED: Final = "[REDACTED]"
TOO_DEEP: Final = "[…]"
MAX_DEPTH: Final = 30
TELLING_CHARACTERS: Final = 8
# Bytes of a value that is looked for in base64: what is shorter is found by chance, what is longer costs too much.
BASE64_BYTES: Final = range(12, 1025)


class Redactor:
    """Replaces every occurrence of some values by `[REDACTED]`, those that overlap by one. Empty ones are not replaced.

    A value is found as it is, as JSON writes it into a text (short escapes or hexadecimal ones, non-ASCII escaped or
    not) and, from 12 bytes up to 1,024, inside of base64 at any offset. It takes time in proportion to the text,
    whatever the values.
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values if value for form in forms_of(value)}
        self._automaton = Automaton(forms) if forms else None

    def text(self, text: str) -> str:
        """`text` without the values."""
        if self._automaton is None:
            return text
        stream = self.stream()
        return stream.push(text) + stream.end()

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
        return RedactedStream(self._automaton)


class RedactedStream:
    """Text in pieces, also where a value is split over several of them: what could become a value is held back.

    That is never more than the longest form of a value. Of overlapping values the mark is shown as soon as it is known
    where they begin.
    """

    def __init__(self, automaton: Automaton | None) -> None:
        """`automaton` finds what is to be replaced; None if there is nothing."""
        self._search = None if automaton is None else Search(automaton)
        self._held = ""
        self._marked = False  # whether the mark of the first span has been shown

    def push(self, piece: str) -> str:
        """Add a piece; returns what can be shown now, possibly nothing."""
        if self._search is None:
            return piece
        self._search.push(piece)
        self._held += piece
        return self._show(self._search, self._search.read - self._search.open)

    def flush(self) -> str:
        """End the stream; returns what was held back. A new one may begin.

        What was held back may be the beginning of a value that was cut off. From 8 characters on it is redacted;
        less tells little, and is more likely to be ordinary text.
        """
        if self._search is not None and self._search.open >= TELLING_CHARACTERS:
            self._search.mark(self._search.read - self._search.open, self._search.read)
        return self.end()

    def end(self) -> str:
        """End the stream as `flush` does, but show the beginning of a value."""
        if self._search is None:
            return ""
        self._search.reset()
        return self._show(self._search, self._search.read)

    def _show(self, search: Search, until: int) -> str:
        """What to show of the held text up to this place in the stream, before which no further value can begin."""
        shown, at = [], search.read - len(self._held)
        before = at
        while search.spans and search.spans[0][0] < until:
            start, end = search.spans[0]
            if not self._marked:
                shown += [self._held[at - before : start - before], REDACTED]
            self._marked = end > until
            at = min(end, until)
            if self._marked:
                break
            search.spans.popleft()
        shown.append(self._held[at - before : until - before])
        self._held = self._held[until - before :]
        return "".join(shown)


def forms_of(value: str) -> Iterator[str]:
    """A value as it is, and as it looks inside of JSON texts and base64."""
    yield value
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    for digits in ("04x", "04X"):
        for short in (True, False):
            yield "".join(_escaped(character, digits, short=short) for character in value)
    content = value.encode()
    if len(content) in BASE64_BYTES:
        for offset in range(3):
            # Of the characters at both ends, some bits are those of what stands before and after the value.
            encoded = base64.b64encode(bytes(offset) + content).decode()
            whole = encoded[(0, 2, 3)[offset] : (offset + len(content)) * 8 // 6]
            yield whole
            yield whole.replace("+", "-").replace("/", "_")


def _escaped(character: str, digits: str, *, short: bool) -> str:
    """A character inside of a JSON text, non-ASCII escaped, with short escapes such as that of a newline or without."""
    escaped = json.dumps(character)[1:-1]
    if escaped == character or (short and len(escaped) == 2):
        return escaped
    units = character.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):{digits}}" for at in range(0, len(units), 2))
