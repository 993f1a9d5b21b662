"""Takes secret values out of what an execution shows."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote, quote_plus

from cloutagent_server.service.occurrences import Automaton, Search, UnwrappedSearch

REDACTED: Final = "[REDACTED]"
TOO_DEEP: Final = "[…]"
MAX_DEPTH: Final = 30
TELLING_CHARACTERS: Final = 8
# Bytes of a value that is looked for in base64: what is shorter is found by chance, what is longer costs too much.
BASE64_BYTES: Final = range(12, 1025)
# Characters of a value up to which it is looked for in all forms; of longer ones there are few, and forms cost.
MANY_FORMS_CHARACTERS: Final = 4096

# What those who write JSON escape beside what they must: Go and others what HTML gives a meaning, PHP the slash.
_ALSO_ESCAPED: Final = ("", "&<>\u2028\u2029", "&<>='\u2028\u2029", "/")
# What those who write URLs leave as it is, beside letters, digits and "_.-~".
_IN_URLS: Final = ("", "/", "!*'()", "!*'();,/?:@&=+$#")
_PERCENT: Final = re.compile("%[0-9A-F]{2}")


class Redactor:
    """Replaces every occurrence of some values by `[REDACTED]`, those that overlap by one. Empty ones are not replaced.

    A value is found as it is, without the white space around it, as JSON writes it into a text (short escapes or
    hexadecimal ones, non-ASCII escaped or not, as Go or PHP do), as JSON within JSON, as in a URL (percent-encoded)
    and, from 12 bytes up to 1,024, inside of base64 at any offset, in one line or wrapped. It takes time in proportion
    to the text, whatever the values.
    """

    def __init__(self, values: Iterable[str]) -> None:
        given = {value for value in values if value}
        forms = {form for value in given for form in forms_of(value)}
        wrapped = {form for value in given for form in _base64_forms(value)}
        self._automaton = Automaton(forms) if forms else None
        self._wrapped = Automaton(wrapped) if wrapped else None

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
        return RedactedStream(self._automaton, self._wrapped)


class RedactedStream:
    """Text in pieces, also where a value is split over several of them: what could become a value is held back.

    That is never more than the longest form of a value, with its line ends. Of overlapping values the mark is shown as
    soon as it is known where they begin.
    """

    def __init__(self, automaton: Automaton | None, wrapped: Automaton | None = None) -> None:
        """`automaton` finds what is to be replaced; None if there is nothing. `wrapped` finds it across line ends."""
        self._search = None if automaton is None else Search(automaton)
        self._unwrapped = None if wrapped is None else UnwrappedSearch(wrapped)
        self._held = ""
        self._marked = False  # whether the mark of the first span has been shown

    def push(self, piece: str) -> str:
        """Add a piece; returns what can be shown now, possibly nothing."""
        if self._search is None:
            return piece
        at = self._search.read
        self._search.push(piece)
        self._held += piece
        until = self._search.read - self._search.open
        if self._unwrapped is not None:
            for start, end in self._unwrapped.push(piece, at):
                self._search.mark(start, end)
            if self._unwrapped.open:
                until = min(until, self._unwrapped.begin)
        return self._show(self._search, until)

    def flush(self) -> str:
        """End the stream; returns what was held back. A new one may begin.

        What was held back may be the beginning of a value that was cut off. From 8 characters on it is redacted;
        less tells little, and is more likely to be ordinary text.
        """
        if self._search is not None and self._search.open >= TELLING_CHARACTERS:
            self._search.mark(self._search.read - self._search.open, self._search.read)
        if self._search is not None and self._unwrapped is not None and self._unwrapped.open >= TELLING_CHARACTERS:
            self._search.mark(self._unwrapped.begin, self._search.read)
        return self.end()

    def end(self) -> str:
        """End the stream as `flush` does, but show the beginning of a value."""
        if self._search is None:
            return ""
        self._search.reset()
        if self._unwrapped is not None:
            self._unwrapped.reset()
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
    """A value as it is and as it looks in JSON texts, URLs and base64, with the white space around it and without."""
    for form in dict.fromkeys((value, value.strip())):
        if form:
            yield form
            yield from _json_forms(form)
            yield from _url_forms(form)
            yield from _base64_forms(form)


def _json_forms(value: str) -> Iterator[str]:
    many = len(value) <= MANY_FORMS_CHARACTERS
    for also in _ALSO_ESCAPED if many else ("",):
        if also and not any(character in value for character in also):
            continue
        once = _raw(value, also)
        yield once
        if many:
            # Within JSON again, by the same writer or by one that escapes what it must.
            yield _raw(once, also)
            yield _raw(once, "")
            yield json.dumps(once)[1:-1]
        for digits in ("04x", "04X"):
            for short in (True, False):
                once = "".join(_escaped(character, digits, also, short=short) for character in value)
                yield once
                if many:
                    yield _raw(once, "")
                    yield _raw(once, also)


def _raw(value: str, also: str) -> str:
    """A value inside of a JSON text, non-ASCII as it is, and with those of `also` escaped."""
    written = json.dumps(value, ensure_ascii=False)[1:-1]
    return re.sub(f"[{re.escape(also)}]", lambda found: _also_escaped(found[0], "04x"), written) if also else written


def _also_escaped(character: str, digits: str) -> str:
    return "\\/" if character == "/" else f"\\u{ord(character):{digits}}"


def _escaped(character: str, digits: str, also: str, *, short: bool) -> str:
    """A character inside of a JSON text, non-ASCII escaped, with short escapes such as that of a newline or without."""
    if character in also:
        return _also_escaped(character, digits)
    escaped = json.dumps(character)[1:-1]
    if escaped == character or (short and len(escaped) == 2):
        return escaped
    units = character.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2]):{digits}}" for at in range(0, len(units), 2))


def _url_forms(value: str) -> Iterator[str]:
    if len(value) <= MANY_FORMS_CHARACTERS:
        for encoded in (quote_plus(value), *(quote(value, safe) for safe in _IN_URLS)):
            yield encoded
            yield _PERCENT.sub(lambda found: found[0].lower(), encoded)


def _base64_forms(value: str) -> Iterator[str]:
    for content in dict.fromkeys((value.encode(), value.strip().encode())):
        if len(content) in BASE64_BYTES:
            for offset in range(3):
                # Of the characters at both ends, some bits are those of what stands before and after the value.
                encoded = base64.b64encode(bytes(offset) + content).decode()
                whole = encoded[(0, 2, 3)[offset] : (offset + len(content)) * 8 // 6]
                yield whole
                yield whole.replace("+", "-").replace("/", "_")
