"""Checks requests against the `buf.validate` rules in the protos, and names what is wrong as callers spell it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import protovalidate
from google.protobuf.message import Message

from cloutagent_server.domain.errors import FieldViolation, InvalidRequest

_LARGE_BYTES: Final = 65_536
_validator = protovalidate.Validator()


def check(request: Message) -> None:
    """Raises InvalidRequest with a violation for each rule that `request` breaks; of a large request with the first.

    A large request could break a rule hundreds of thousands of times, and telling all of them would take minutes.
    """
    violations = _validator.collect_violations(request, fail_fast=request.ByteSize() > _LARGE_BYTES)
    if violations:
        raise InvalidRequest([_violation(v.proto) for v in violations])


def warm(kinds: Iterable[type[Message]]) -> None:
    """Compile the rules of these messages now: the first check of each costs milliseconds."""
    for kind in kinds:
        _validator.collect_violations(kind())


def _violation(violation: Any) -> FieldViolation:
    """A rule written in CEL carries the field it is about in its id, in front of the last dot.

    Without a dot it is about the message that it stands in.
    """
    if violation.rule is None or violation.rule.elements[0].field_name == "cel":
        path, dot, _ = violation.rule_id.rpartition(".")
        if dot:
            return FieldViolation(".".join(map(camel, path.split("."))), violation.message)
    return FieldViolation(_path(violation.field.elements if violation.field is not None else ()), violation.message)


def _path(elements: Iterable[Any]) -> str:
    path = ""
    for element in elements:
        path += ("." if path else "") + camel(element.field_name)
        subscript = getattr(element, "subscript", None)
        if subscript is not None:
            key = subscript.value
            path += f"[{key}]" if isinstance(key, int) else f".{key}"
    return path


def camel(name: str) -> str:
    """A field's name as JSON spells it: `max_tokens` is `maxTokens`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
