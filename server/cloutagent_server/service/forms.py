"""The ways in which a secret value may be written: as it is, and inside of JSON, URLs and base64."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import quote, quote_plus

# Bytes of a value that is looked for in base64: what is shorter is found by chance, what is longer costs too much.
BASE64_BYTES: Final = range(12, 1025)
# Characters of a value up to which it is looked for in all forms; of longer ones there are few, and forms cost.
MANY_FORMS_CHARACTERS: Final = 4096

# What those who write JSON escape beside what they must: Go and others what HTML gives a meaning, PHP the slash.
_ALSO_ESCAPED: Final = ("", "&<>\u2028\u2029", "&<>='\u2028\u2029", "/")
# What those who write URLs leave as it is, beside letters, digits and "_.-~".
_IN_URLS: Final = ("", "/", "!*'()", "!*'();,/?:@&=+$#")
_PERCENT: Final = re.compile("%[0-9A-F]{2}")
# What everyone who writes JSON or URLs leaves as it is, and one of those that stands in nothing they write for others.
_PLAIN: Final = re.compile("[A-Za-z0-9_.~-]*")
_PLAIN_ALONE: Final = "~"
# Characters of a value that are written in one go.
_PART_CHARACTERS: Final = 256
_JSON: Final = json.JSONEncoder(ensure_ascii=False)
_ASCII_JSON: Final = json.JSONEncoder()

Writer = Callable[[str], str]
"""Writes a text character by character: what it makes of the first ones does not depend on those that follow."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way in which a value may be written. It is written no further than it is asked for.

    Attributes:
        value: What is written, not empty.
        write: Makes at least one byte of each character.
    """

    value: str
    write: Writer

    def beginning(self, size: int) -> tuple[bytes, bool]:
        """The first `size` bytes of it in UTF-8, or all if it has no more, and whether they are all."""
        written = self.write(self.value[:size]).encode()
        return written[:size], len(written) <= size and len(self.value) <= size


def beginnings_of(forms: Iterable[Form], size: int) -> Iterator[tuple[Form, bytes, bool]]:
    """Each form with its beginning; what several of them write in the same way is written once."""
    characters: dict[tuple[str, int], str] = {}
    known: dict[tuple[str, int, str], bytes] = {}
    for form in forms:
        written, at = b"", 0
        while at < len(form.value) and len(written) <= size:
            place = form.value, at
            part = form.value[at : at + _PART_CHARACTERS]
            if place not in characters:
                characters[place] = "" if _PLAIN.fullmatch(part) else _PLAIN_ALONE.join(set(part))
            alike = (*place, form.write(characters[place]) if characters[place] else "")
            if alike not in known:
                known[alike] = form.write(part).encode()
            written += known[alike]
            at += _PART_CHARACTERS
        yield form, written[:size], len(written) <= size


def forms_of(value: str) -> Iterator[Form]:
    """A value as it is and as it looks in JSON texts, URLs and base64, with the white space around it and without."""
    for content in dict.fromkeys((value, value.strip())):
        if content:
            yield from (Form(content, write) for write in _writers_for(content))
            yield from base64_forms_of(content)


def base64_forms_of(value: str) -> Iterator[Form]:
    """What is the same in all base64 of texts with a value inside, with the white space around it and without."""
    for content in dict.fromkeys((value.encode(), value.strip().encode())):
        if len(content) in BASE64_BYTES:
            for offset in range(3):
                # Of the characters at both ends, some bits are those of what stands before and after the value.
                encoded = base64.b64encode(bytes(offset) + content).decode()
                whole = encoded[(0, 2, 3)[offset] : (offset + len(content)) * 8 // 6]
                for form in dict.fromkeys((whole, whole.replace("+", "-").replace("/", "_"))):
                    yield Form(form, _as_it_is)


def _writers_for(value: str) -> Iterator[Writer]:
    """Those that write the value each in another way, or some in the same way."""
    yield _as_it_is
    if _PLAIN.fullmatch(value):
        return
    if len(value) > MANY_FORMS_CHARACTERS:
        yield from _JSON_WRITERS
        return
    for also, writers in _NESTING_JSON_WRITERS.items():
        if not also or any(character in value for character in also):
            yield from writers
    yield from _URL_WRITERS


def _as_it_is(value: str) -> str:
    return value


class _Escapes(dict[int, str]):
    """What stands for a character in JSON texts without non-ASCII, for `str.translate`. What is ASCII is kept."""

    def __init__(self, digits: str, also: str, *, short: bool) -> None:
        super().__init__()
        self._digits, self._also, self._short = digits, also, short

    def __missing__(self, code: int) -> str:
        if code < 128:
            self[code] = written = self._of_ascii(chr(code))
            return written
        if code < 0x10000:
            return _escape(code, self._digits)
        high, low = divmod(code - 0x10000, 0x400)
        return _escape(0xD800 + high, self._digits) + _escape(0xDC00 + low, self._digits)

    def _of_ascii(self, character: str) -> str:
        if character in self._also:
            return _also_escaped(character, self._digits)
        escaped = _ascii(character)
        plain = escaped == character or (self._short and len(escaped) == 2)
        return escaped if plain else _escape(ord(character), self._digits)


def _escape(unit: int, digits: str) -> str:
    return f"\\u{unit:{digits}}"


def _also_escaped(character: str, digits: str) -> str:
    return "\\/" if character == "/" else _escape(ord(character), digits)


def _raw(also: Mapping[int, str], value: str) -> str:
    """A value inside of a JSON text, non-ASCII as it is, and with those of `also` escaped."""
    written = _JSON.encode(value)[1:-1]
    return written.translate(also) if also else written


def _ascii(value: str) -> str:
    return _ASCII_JSON.encode(value)[1:-1]


def _translated(escapes: Mapping[int, str], value: str) -> str:
    return value.translate(escapes)


def _twice(first: Writer, second: Writer, value: str) -> str:
    return second(first(value))


def _json_writers(also: str) -> Iterator[Writer]:
    yield partial(_raw, {ord(character): _also_escaped(character, "04x") for character in also})
    for digits in ("04x", "04X"):
        for short in (True, False):
            yield partial(_translated, _Escapes(digits, also, short=short))


def _nesting_json_writers(also: str) -> Iterator[Writer]:
    """Also those of JSON within JSON, by the same writer or by one that escapes what it must."""
    raw, *escaping = _json_writers(also)
    must, *_ = _json_writers("")
    yield raw
    for again in (raw, must, _ascii):
        yield partial(_twice, raw, again)
    for once in escaping:
        yield once
        yield partial(_twice, once, must)
        yield partial(_twice, once, raw)


def _url_writers() -> Iterator[Writer]:
    encoders: list[Writer] = [quote_plus, *(partial(quote, safe=safe) for safe in _IN_URLS)]
    for encode in encoders:
        yield encode
        yield partial(_twice, encode, _in_lower_case)


def _in_lower_case(encoded: str) -> str:
    return _PERCENT.sub(lambda found: found[0].lower(), encoded)


_JSON_WRITERS: Final = tuple(_json_writers(""))
_NESTING_JSON_WRITERS: Final = {also: tuple(_nesting_json_writers(also)) for also in _ALSO_ESCAPED}
_URL_WRITERS: Final = tuple(_url_writers())
