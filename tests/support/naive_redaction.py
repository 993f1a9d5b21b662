"""What redaction must do, in the plainest way: all forms of a value written out, and each looked for at each place."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

from cloutagent_server.service.redaction import REDACTED, TELLING_CHARACTERS

# Bytes of a value that is looked for in base64: what is shorter is found by chance, what is longer costs too much.
BASE64_BYTES: Final = range(12, 1025)
# Characters of a value up to which it is looked for in all forms; of longer ones there are few, and forms cost.
MANY_FORMS_CHARACTERS: Final = 4096

# What those who write JSON escape beside what they must: Go and others what HTML gives a meaning, PHP the slash.
_ALSO_ESCAPED: Final = ("", "&<>\u2028\u2029", "&<>='\u2028\u2029", "/")
# What those who write URLs leave as it is, beside letters, digits and "_.-~".
_IN_URLS: Final = ("", "/", "!*'()", "!*'();,/?:@&=+$#")
_PERCENT: Final = re.compile("%[0-9A-F]{2}")


def redacted_naively(values: list[str], text: str, cut_off: bool) -> str:
    """What redacting a whole text gives: every occurrence of every form, those that overlap joined."""
    forms = {form for value in values if value for form in forms_of(value)}
    spans = {(at, at + len(form)) for form in forms for at in range(len(text)) if text.startswith(form, at)}
    rests = [text[at:] for at in range(len(text)) if any(form.startswith(text[at:]) for form in forms)]
    if cut_off and rests and len(rests[0]) >= TELLING_CHARACTERS:
        spans.add((len(text) - len(rests[0]), len(text)))
    shown, end = "", 0
    for start, stop in sorted(spans):
        if start >= end or not end:
            shown += text[end:start] + REDACTED
        end = max(end, stop)
    return shown + text[end:]


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
