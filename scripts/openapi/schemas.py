"""Messages and enums as JSON Schemas, in the JSON form that REST gives them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from scripts.openapi.descriptors import PACKAGE, Api, closure
from scripts.openapi.rules import Json, excluded, keywords

_REQUIRED, _OUTPUT_ONLY, _IDENTIFIER = 2, 3, 8

_INT32 = {"type": "integer", "format": "int32"}
_WIDE = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
# By FieldDescriptor.TYPE_*.
_SCALARS: dict[int, Json] = {
    1: {"type": "number", "format": "double"},
    2: {"type": "number", "format": "float"},
    3: _WIDE,
    4: _WIDE,
    5: _INT32,
    8: {"type": "boolean"},
    9: {"type": "string"},
    12: {"type": "string", "contentEncoding": "base64"},
    13: {"type": "integer", "minimum": 0, "maximum": 4294967295},
}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
}


class Schemas:
    """Collects the schemas that requests and answers refer to.

    A message is described twice if it is in both: as an answer every field without presence is there, and as a request
    (named `…Input`) it has the rules for what may be sent, and no field that the server alone sets.

    Attributes:
        components: The schemas by name.
    """

    def __init__(self, api: Api) -> None:
        self.components: dict[str, Json] = {}
        self._api = api
        self._answered = {message.full_name for message in closure([each.output_type for each in api.methods])}

    def answer(self, message: Any) -> Json:
        """A reference to the schema of a message in answers."""
        name = _local(message)
        if name not in self.components:
            self.components[name] = {}
            self.components[name].update(self.of(message, asked=False))
        return _ref(name)

    def request(self, message: Any, without: Collection[str] = ()) -> Json:
        """A reference to the schema of a message in requests, but for the fields that are named `without`."""
        name = _local(message) + ("Input" if message.full_name in self._answered else "")
        if name not in self.components:
            self.components[name] = {}
            self.components[name].update(self.of(message, asked=True, without=without))
        return _ref(name)

    def of(self, message: Any, *, asked: bool, without: Collection[str] = ()) -> Json:
        """The schema of a message itself."""
        properties: Json = {}
        required = []
        for field in message.fields:
            if field.name in without or (asked and self._set_by_server(field)):
                continue
            properties[field.json_name] = self.field(field, asked=asked)
            if self.is_required(field) if asked else _is_always_there(field):
                required.append(field.json_name)
        schema: Json = {"type": "object", "properties": properties}
        if required:
            schema["required"] = required
        description = self._api.text(message)
        if asked:
            description = " ".join([description, *self._message_rules(message, properties)])
        return {"description": description, **schema} if description else schema

    def field(self, field: Any, *, asked: bool) -> Json:
        """The schema of a field."""
        rules = self._api.option(field, "buf.validate.field") if asked else None
        said = {} if rules is None else keywords(rules)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = self._single(field.message_type.fields_by_name["value"], asked, set())
            schema = {
                "type": "object",
                **said,
                "additionalProperties": {**values, **said.get("additionalProperties", {})},
            }
        elif field.is_repeated:
            items = self._single(field, asked, excluded(rules))
            schema = {"type": "array", **said, "items": {**items, **said.get("items", {})}}
        else:
            schema = {**self._single(field, asked, excluded(rules)), **said}
            if asked and schema.get("format") == "int32":
                schema = _within_int32(schema)
        if field.GetOptions().debug_redact:
            schema["format"] = "password"
        description = self._api.text(field)
        return {**schema, "description": description} if description else schema

    def is_required(self, field: Any) -> bool:
        """Whether a request without this field is refused."""
        rules = self._api.option(field, "buf.validate.field")
        return _REQUIRED in self._behaviours(field) or (rules is not None and rules.required)

    def _single(self, field: Any, asked: bool, left_out: set[int]) -> Json:
        if field.enum_type is not None:
            return self._enum(field.enum_type, left_out)
        message = field.message_type
        if message is None:
            return dict(_SCALARS[field.type])
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        return self.request(message) if asked else self.answer(message)

    def _enum(self, enum: Any, left_out: set[int]) -> Json:
        if left_out:
            return {"type": "string", "enum": [value.name for value in enum.values if value.number not in left_out]}
        name = _local(enum)
        if name not in self.components:
            values = [f"- `{value.name}`: {self._api.value_text(enum, value)}" for value in enum.values]
            self.components[name] = {
                "type": "string",
                "enum": [value.name for value in enum.values],
                "description": "\n".join([self._api.text(enum), "", *values]),
            }
        return _ref(name)

    def _message_rules(self, message: Any, properties: Json) -> list[str]:
        """Rules in CEL: `path.required` becomes a keyword; what names no field is told as a sentence."""
        rules = self._api.option(message, "buf.validate.message")
        sentences = []
        for rule in [] if rules is None else rules.cel:
            path, _, what = rule.id.rpartition(".")
            if what == "required" and path.count(".") == 1:
                outer, inner = path.split(".")
                field = message.fields_by_name[outer]
                inner_name = field.message_type.fields_by_name[inner].json_name
                properties[field.json_name].setdefault("required", []).append(inner_name)
            elif not path:
                sentences.append(f"{rule.message[0].upper()}{rule.message[1:]}.")
        return sentences

    def _set_by_server(self, field: Any) -> bool:
        return bool(self._behaviours(field) & {_OUTPUT_ONLY, _IDENTIFIER})

    def _behaviours(self, field: Any) -> set[int]:
        return set(self._api.option(field, "google.api.field_behavior") or ())


def _is_always_there(field: Any) -> bool:
    """Neither `optional` nor in a oneof: the server sets each message, and REST prints 0, "", false and []."""
    return field.containing_oneof is None


def _within_int32(schema: Json) -> Json:
    low = {} if schema.keys() & {"minimum", "exclusiveMinimum"} else {"minimum": -(2**31)}
    high = {} if schema.keys() & {"maximum", "exclusiveMaximum"} else {"maximum": 2**31 - 1}
    return {**schema, **low, **high}


def _local(descriptor: Any) -> str:
    name: str = descriptor.full_name.removeprefix(f"{PACKAGE}.")
    return name


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
