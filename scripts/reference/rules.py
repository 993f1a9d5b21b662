"""`buf.validate` rules and field behaviours in words."""

from __future__ import annotations

from typing import Any, Final

from scripts.openapi.descriptors import Api
from scripts.openapi.rules import UnknownRule

_BEHAVIOURS: Final = {2: "required", 3: "set by the server", 8: "identifier"}
_WORDS: Final = {
    "gt": "> {}",
    "gte": "≥ {}",
    "lt": "< {}",
    "lte": "≤ {}",
    "finite": "finite",
    "min_len": "length ≥ {}",
    "max_len": "length ≤ {}",
    "max_bytes": "≤ {} bytes",
    "pattern": "like `` {} ``",
    "uuid": "a UUID",
    "min_items": "≥ {} items",
    "max_items": "≤ {} items",
    "unique": "no item twice",
    "min_pairs": "≥ {} entries",
    "max_pairs": "≤ {} entries",
    "defined_only": "a value that is defined",
    "gt_now": "in the future",
}
_PARTS: Final = {"items": "each item", "keys": "keys", "values": "values"}


def field_rules(api: Api, field: Any) -> list[str]:
    """What a request's field must be like, in phrases.

    Raises:
        UnknownRule: A rule has no words here.
    """
    behaviours = api.option(field, "google.api.field_behavior") or ()
    found = [_BEHAVIOURS[each] for each in behaviours if each in _BEHAVIOURS]
    rules = api.option(field, "buf.validate.field")
    if rules is None:
        return found
    if rules.required and "required" not in found:
        found.append("required")
    return [*found, *_typed(rules, field), *(_sentence(rule) for rule in rules.cel)]


def message_rules(api: Api, message: Any) -> list[str]:
    """Rules of a message as a whole, in phrases."""
    rules = api.option(message, "buf.validate.message")
    return [] if rules is None else [_sentence(rule) for rule in rules.cel]


def _typed(rules: Any, field: Any) -> list[str]:
    kind = rules.WhichOneof("type")
    given = {rule.name: value for rule, value in getattr(rules, kind).ListFields()} if kind else {}
    if unknown := given.keys() - _WORDS.keys() - _PARTS.keys() - {"not_in"}:
        raise UnknownRule(f"{kind}.{min(unknown)}")
    found = [words.format(_shown(given[rule])) for rule, words in _WORDS.items() if rule in given]
    if "not_in" in given:
        names = {each.number: each.name for each in field.enum_type.values}
        found.append(f"not {', '.join(f'`{names[number]}`' for number in given['not_in'])}")
    return found + [f"{part} {', '.join(_typed(given[rule], field))}" for rule, part in _PARTS.items() if rule in given]


def _shown(value: object) -> object:
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _sentence(rule: Any) -> str:
    """A rule in CEL: its id begins with the path of the field that it is about, if it is about one."""
    path, _, _ = rule.id.rpartition(".")
    return f"`{path}` {rule.message}" if path else str(rule.message)
