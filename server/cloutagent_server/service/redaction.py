"""Takes secret values out of what an execution shows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Final, TypeVar

from cloutagent_server.service.forms import base64_forms_of, forms_of
from cloutagent_server.service.occurrences import Search, UnwrappedSearch, wrapped_in_sight
from cloutagent_server.service.patterns import Patterns

REDACTED: Final = "[REDACTED]"
TOO_DEEP: Final = "[…]"
MAX_DEPTH: Final = 30
TELLING_CHARACTERS: Final = 8
# Characters of a text that are looked at in one go, so that memory is bounded.
PIECE_CHARACTERS: Final = 1 << 15
# Characters that are looked at in less than a millisecond, unless there may be a value among them.
_FEW_CHARACTERS: Final = 1 << 14
# What it takes to look at a text however short it is, in characters.
_TEXT_COST: Final = 16

T = TypeVar("T")
Steps = Generator[int, None, T]


class Redactor:
    """Replaces every occurrence of some values by `[REDACTED]`, those that overlap by one. Empty ones are not replaced.

    A value is found as it is, without the white space around it, as JSON writes it into a text (short escapes or
    hexadecimal ones, non-ASCII escaped or not, as Go or PHP do), as JSON within JSON, as in a URL (percent-encoded)
    and, from 12 bytes up to 1,024, inside of base64 at any offset, in one line or wrapped. Making one takes time and
    memory in proportion to the number of values, whatever their length. Several threads may use it at the same time.
    """

    def __init__(self, values: Iterable[str]) -> None:
        given = {value for value in values if value}
        forms = [form for value in given for form in forms_of(value)]
        wrapped = [form for value in given for form in base64_forms_of(value)]
        self._patterns = Patterns(forms) if forms else None
        self._wrapped = Patterns(wrapped) if wrapped else None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to replace."""
        return self._patterns is None

    def text(self, text: str) -> str:
        """`text` without the values."""
        return _result(self._text(text))

    def whole(self, text: str) -> str:
        """`text`, with nothing to follow it, without the values; nor does it end with the beginning of one."""
        stream = self.stream()
        return stream.push(text) + stream.flush()

    def document(self, value: object) -> object:
        """A JSON value whose texts, keys included, are without the values; a number that spells one becomes a text.

        What is nested deeper than 30 levels is left out, since not every reader of events takes it.
        """
        return _result(self.document_in_steps(value))

    def document_in_steps(self, value: object, depth: int = 0) -> Steps[object]:
        """As `document`, a little at a time: gives about how many characters each step has looked at."""
        if depth > MAX_DEPTH:
            return TOO_DEEP
        match value:
            case str():
                return (yield from self._text(value))
            case int() | float() if not isinstance(value, bool):
                spelled = str(value)
                shown = yield from self._text(spelled)
                return value if shown == spelled else shown
            case Mapping():
                mapping: dict[str, object] = {}
                for key, item in value.items():
                    name = yield from self._text(str(key))
                    mapping[name] = yield from self.document_in_steps(item, depth + 1)
                return mapping
            case list() | tuple():
                items: list[object] = []
                for item in value:
                    items.append((yield from self.document_in_steps(item, depth + 1)))
                return items
            case _:
                return value

    def _text(self, text: str) -> Steps[str]:
        if self._patterns is None or (text.isascii() and len(text) < self._patterns.shortest):
            return text
        yield _TEXT_COST
        if len(text) <= _FEW_CHARACTERS and not self._in_sight(_data(text)):
            yield len(text)
            return text
        stream, shown = self.stream(), []
        for at in range(0, len(text), PIECE_CHARACTERS):
            shown.append(stream.push(text[at : at + PIECE_CHARACTERS]))
            yield PIECE_CHARACTERS
        return "".join(shown) + stream.end()

    def _in_sight(self, data: bytes) -> bool:
        return any(
            patterns is not None and seen(patterns, data)
            for patterns, seen in ((self._patterns, Patterns.in_sight), (self._wrapped, wrapped_in_sight))
        )

    def stream(self) -> RedactedStream:
        """A stream of text that comes in pieces."""
        return RedactedStream(self._patterns, self._wrapped)


class RedactedStream:
    """Text in pieces, also where a value is split over several of them: what could become a value is held back.

    That is never more than the longest form of a value, with its line ends. Of overlapping values the mark is shown as
    soon as it is known where they begin. One thread at a time.
    """

    def __init__(self, patterns: Patterns | None, wrapped: Patterns | None = None) -> None:
        """`patterns` are what is to be replaced; None if there is nothing. Those of `wrapped` are, across line ends."""
        self._search = None if patterns is None else Search(patterns)
        self._unwrapped = None if wrapped is None else UnwrappedSearch(wrapped)
        self._found: list[tuple[int, int]] = []
        self._held = b""
        self._begin = 0  # where in the text what is held begins
        self._done = 0  # up to where the text was shown or a mark stands for it

    @property
    def held(self) -> int:
        """The bytes of what is held back."""
        return len(self._held)

    def takes_long(self, piece: str = "") -> bool:
        """Whether `push` of this piece, or with none `flush`, may take longer than a millisecond."""
        if len(self._held) + len(piece) > _FEW_CHARACTERS:
            return self._search is not None
        data = _data(piece)
        return any(search is not None and search.in_sight(data) for search in (self._search, self._unwrapped))

    def push(self, piece: str) -> str:
        """Add a piece; returns what can be shown now, possibly nothing."""
        if self._search is None:
            return piece
        parts = (piece[at : at + PIECE_CHARACTERS] for at in range(0, len(piece), PIECE_CHARACTERS))
        return "".join([self._read(self._search, part) for part in parts])

    def flush(self) -> str:
        """End the stream; returns what was held back. A new one may begin.

        What was held back may be the beginning of a value that was cut off. From 8 characters on it is redacted;
        less tells little, and is more likely to be ordinary text.
        """
        for search in (self._search, self._unwrapped):
            if search is not None and len(_text(search.held)) >= TELLING_CHARACTERS:
                self._found.append((search.begin, self._begin + len(self._held)))
                search.drop()
        return self.end()

    def end(self) -> str:
        """End the stream as `flush` does, but show the beginning of a value."""
        for search in (self._search, self._unwrapped):
            if search is not None:
                self._found += search.end()
        return self._show(self._begin + len(self._held))

    def _read(self, search: Search, piece: str) -> str:
        data = _data(piece)
        self._held += data
        self._found += search.push(data)
        until = search.begin
        if self._unwrapped is not None:
            self._found += self._unwrapped.push(data)
            until = min(until, self._unwrapped.begin)
        return self._show(until)

    def _show(self, until: int) -> str:
        """What to show of the held text up to this place in the stream, before which no further value can begin."""
        shown, held, before = [], self._held, self._begin
        self._found.sort()
        dealt_with = 0
        for start, end in self._found:
            if start >= until:
                break
            if start >= self._done:
                shown += [held[self._done - before : start - before], REDACTED.encode()]
            self._done = max(self._done, end)
            dealt_with += 1
        if self._done < until:
            shown.append(held[self._done - before : until - before])
            self._done = until
        del self._found[:dealt_with]
        self._held, self._begin = held[until - before :], until
        return _text(b"".join(shown))


def _result(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def _data(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
