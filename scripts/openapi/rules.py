"""`buf.validate` rules as keywords of JSON Schema."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_NUMBER_KINDS = {"double", "float", "int32", "uint32"}
_NUMBERS = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
# A text of so many bytes has at most so many characters.
_STRINGS = {"min_len": "minLength", "max_len": "maxLength", "max_bytes": "maxLength", "pattern": "pattern"}
_LISTS = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}
_MAPS = {"min_pairs": "minProperties", "max_pairs": "maxProperties"}

# What JSON Schema has no word for, or says already.
_UNSAID = {
    ("double", "finite"),
    ("float", "finite"),
    ("enum", "defined_only"),
    ("enum", "not_in"),
    ("timestamp", "gt_now"),
}


class UnknownRule(Exception):
    """A rule that this module does not translate. The document would not tell it."""


def keywords(rules: Any) -> Json:
    """The keywords for a field's rules, or for those of a list's items or a map's keys and values.

    Rules in CEL are left to the descriptions.

    Raises:
        UnknownRule: A rule has no translation here.
    """
    kind = rules.WhichOneof("type")
    found: Json = {}
    if kind is None:
        return found
    for field, value in getattr(rules, kind).ListFields():
        match kind, field.name:
            case "string", "uuid":
                found["format"] = "uuid"
            case "string", "pattern":
                found["pattern"] = _ecma(value)
            case "repeated", "items":
                found["items"] = keywords(value)
            case "map", "keys":
                found["propertyNames"] = keywords(value)
            case "map", "values":
                found["additionalProperties"] = keywords(value)
            case pair if pair not in _UNSAID:
                found[_word(kind, field.name)] = value
    return found


def excluded(rules: Any) -> set[int]:
    """Numbers of the values that an enum's field may not have."""
    if rules is None:
        return set()
    if rules.WhichOneof("type") == "repeated":
        return excluded(rules.repeated.items)
    return set(rules.enum.not_in) if rules.WhichOneof("type") == "enum" else set()


def _word(kind: str, rule: str) -> str:
    words = _NUMBERS if kind in _NUMBER_KINDS else {"string": _STRINGS, "repeated": _LISTS, "map": _MAPS}.get(kind, {})
    if rule not in words:
        raise UnknownRule(f"{kind}.{rule}")
    return words[rule]


def _ecma(pattern: str) -> str:
    """A pattern of RE2 as the regular expressions of ECMA-262 write it, which JSON Schema takes."""
    return pattern.replace("(?s:.*)", r"[\s\S]*")
