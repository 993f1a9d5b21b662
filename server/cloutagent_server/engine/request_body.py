"""The body of a request to the Messages API: read once, written once, and bounded before it is read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.input_bound import InputFacts, facts_of, is_off
from cloutagent_server.engine.messages_api import INPUT_FIELDS, OTHER_FIELDS, SET_FIELDS, WITHIN, configure

MOST_PARTS: Final = 200_000
"""How many values and strings a body may have. Each takes up to some 100 bytes when it is read."""

# What stands in a string: possessive, so that nothing is remembered to go back to.
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# How much of a string is passed at a time; no other thread runs meanwhile.
_STEP: Final = 64 * 1024
_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ESCAPED: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_PLAIN: Final = frozenset({"model", "messages", "system", "cache_control"})


class BadBody(ValueError):
    """A body that is none of the Messages API, or one that is not worked at. The message is for the agent."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What of a request goes to the vendor, nearly all of it in JSON already.

    Attributes:
        facts: What it tells about its input.
        text_bytes: Bytes of system prompt and messages.
    """

    facts: InputFacts
    text_bytes: int
    _own: Mapping[str, Any]
    _parts: Mapping[str, bytes]
    _added: str

    @property
    def model(self) -> str:
        """The model that is asked for; empty if none is."""
        model = self._own.get("model")
        return model if isinstance(model, str) else ""

    @property
    def max_tokens(self) -> object:
        """The output tokens that are asked for, as they stand in the request."""
        return self._own.get("max_tokens")

    @property
    def added_for(self) -> str | None:
        """A digest of all that counts as input beside text (tools, output format); None if there is nothing else."""
        thinking = self._own.get("thinking")
        if not self._added and is_off(thinking):
            return None
        return hashlib.sha256(self._added.encode() + _json([self.model, thinking])).hexdigest()

    def configured(self, config: AgentConfig, max_tokens: int) -> RequestBody:
        """This for an agent with such a configuration and so many output tokens."""
        own = dict(self._own)
        configure(own, config, max_tokens)
        return replace(self, _own=own)

    def counted(self) -> bytes:
        """The body of a request that counts the input."""
        kept = {name: self._own[name] for name in ("model", "thinking") if name in self._own}
        return _joined(kept, (part for name, part in self._parts.items() if name in INPUT_FIELDS))

    def whole(self) -> bytes:
        """The body as it goes out."""
        return _joined(self._own, self._parts.values())


def read_body(raw: bytes | bytearray) -> RequestBody:
    """Read a body.

    Raises:
        BadBody: It is not worked at.
    """
    if len(raw) > MOST_PARTS and _openings(raw, 0, len(raw)) > MOST_PARTS and _has_too_many_parts(raw):
        raise BadBody("the request has too many parts")
    try:
        body = json.loads(raw, parse_constant=_refused)
        if not isinstance(body, dict):
            raise BadBody("the request is no JSON object")
        return _read(body)
    except RecursionError:
        raise BadBody("the request is nested too deep") from None
    except BadBody:
        raise
    except ValueError:
        raise BadBody("the request is not JSON") from None


def _openings(raw: bytes | bytearray, start: int, end: int) -> int:
    """How many values can begin there: one after each of these. How deep they stand is for the parser to bound."""
    return raw.count(b",", start, end) + raw.count(b"[", start, end) + raw.count(b"{", start, end)


def _has_too_many_parts(raw: bytes | bytearray) -> bool:
    """Whether there are too many values and strings, not counting what only stands in a string."""
    parts, position = 0, 0
    while parts <= MOST_PARTS and (quote := raw.find(b'"', position)) >= 0:
        parts += 1 + _openings(raw, position, quote)
        position = _after_string(raw, quote + 1)
    return parts + _openings(raw, position, len(raw)) > MOST_PARTS


def _after_string(raw: bytes | bytearray, position: int) -> int:
    """Where what follows a string begins that has its text from `position` on."""
    while position < len(raw):
        text = _IN_STRING.match(raw, position, position + _STEP)
        position = len(raw) if text is None else text.end()
        if raw[position : position + 1] == b'"':
            return position + 1
        if raw[position : position + 1] == b"\\":
            # The step ended between a backslash and what it stands before.
            position += 2
    return len(raw)


def _read(body: dict[str, Any]) -> RequestBody:
    own = {name: body[name] for name in SET_FIELDS if name in body}
    thinking = own.get("thinking")
    if isinstance(thinking, list) or (
        isinstance(thinking, dict) and any(isinstance(value, dict | list) for value in thinking.values())
    ):
        raise BadBody("thinking: is no setting of the Messages API")
    parts = {name: _member(name, _listed(name, body[name])) for name in (*INPUT_FIELDS, *OTHER_FIELDS) if name in body}
    added = hashlib.sha256()
    others = [name for name in parts if name in INPUT_FIELDS and name not in _PLAIN and not is_off(body[name])]
    for name in others:
        added.update(parts[name])
    text_bytes = len(_joined({}, (parts[name] for name in ("system", "messages") if name in parts)))
    return RequestBody(facts_of(body), text_bytes, own, parts, added.hexdigest() if others else "")


def _listed(name: str, value: object) -> object:
    if name in WITHIN and isinstance(value, dict):
        return {key: item for key, item in value.items() if key in WITHIN[name]}
    return value


def _joined(first: Mapping[str, Any], rest: Iterable[bytes]) -> bytes:
    return b"{" + b",".join((*(_member(name, value) for name, value in first.items()), *rest)) + b"}"


def _member(name: str, value: object) -> bytes:
    return b'"%s":%s' % (name.encode(), _json(value))


def _json(value: object) -> bytes:
    """The value as compact JSON; what UTF-8 cannot say, half a pair of surrogates, is escaped."""
    try:
        return _COMPACT.encode(value).encode()
    except UnicodeEncodeError:
        return _ESCAPED.encode(value).encode()


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
