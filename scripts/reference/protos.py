"""One page for each proto file: its service with the calls, its messages with their fields, its enums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from scripts.openapi.descriptors import PACKAGE, Api, in_presence_oneof
from scripts.openapi.rules import Json
from scripts.reference.markdown import GENERATED, Links, item, paragraph, paragraphs
from scripts.reference.rules import field_rules, message_rules

# By FieldDescriptor.TYPE_*.
_SCALARS: Final = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    8: "bool",
    9: "string",
    12: "bytes",
    13: "uint32",
}


def page_of(file: Any) -> str:
    """The file name of a proto file's page."""
    return PurePosixPath(file.name).stem.replace("_", "-") + ".md"


def local(descriptor: Any) -> str:
    """The name of an element within the API's package."""
    name: str = descriptor.full_name.removeprefix(f"{PACKAGE}.")
    return name


def homes(api: Api) -> Mapping[str, str]:
    """The page of every message, enum and call of the API."""
    found: dict[str, str] = {}
    for file in api.files:
        page = page_of(file)
        found |= {local(each): page for message in file.message_types_by_name.values() for each in _types(message)}
        found |= dict.fromkeys(file.enum_types_by_name, page)
        for service in file.services_by_name.values():
            found |= {service.name: page, **{method.name: page for method in service.methods}}
    return found


class ProtoPage:
    """The page of one proto file."""

    def __init__(self, api: Api, document: Json, file: Any, links: Links) -> None:
        """`document` is the OpenAPI document, which knows the statuses of each call."""
        self._api, self._file, self._links = api, file, links
        operations = (operation for verbs in document["paths"].values() for operation in verbs.values())
        self._statuses = {each["operationId"]: list(each["responses"]) for each in operations}

    def text(self) -> str:
        """The page."""
        lines = [f"# {PurePosixPath(self._file.name).name}\n", f"{GENERATED}\n"]
        for service in self._file.services_by_name.values():
            lines += self._service(service)
        messages = self._file.message_types_by_name.values()
        if types := [each for message in messages for each in _types(message)]:
            lines += ["## Messages\n"]
            for each in types:
                lines += self._enum(each) if hasattr(each, "values") else self._message(each)
        for enum in self._file.enum_types_by_name.values():
            lines += self._enum(enum)
        for extension in self._file.extensions_by_name.values():
            lines += [f"## Option {extension.name}\n", *self._comment(extension)]
            lines += [paragraph(f"Its value: {self._type(extension)}.")]
        return "\n".join(lines).rstrip("\n") + "\n"

    def _service(self, service: Any) -> Iterator[str]:
        yield f"## {service.name}\n"
        yield from self._comment(service)
        yield "| call | over REST |\n|---|---|"
        for method in service.methods:
            yield f"| {self._links.to(method.name)} | {self._route(method)} |"
        yield ""
        for method in service.methods:
            yield from self._method(method)

    def _method(self, method: Any) -> Iterator[str]:
        yield f"### {method.name}\n"
        yield from self._comment(method)
        streams = "a stream of " if method.server_streaming else ""
        yield item(f"**Takes** {self._named(method.input_type)}.")
        yield item(f"**Answers with** {streams}{self._named(method.output_type)}.")
        yield item(f"**Over REST**: {self._route(method)}{self._body(method)}.")
        yield item(f"**Key**: {self._access(method)}.")
        operation = method.name[0].lower() + method.name[1:]
        if statuses := self._statuses.get(operation):
            yield item(f"**HTTP statuses**: {', '.join(statuses)}; {self._links.to('ErrorReason')} says why.")
        if (audit := self._api.option(method, f"{PACKAGE}.audit")) is not None:
            yield item(f"**Audit log**: `{audit.action}`.")
        yield ""

    def _route(self, method: Any) -> str:
        route = self._api.route(method)
        return f"`{route.verb.upper()} {route.template}`" if route else "none, gRPC alone"

    def _body(self, method: Any) -> str:
        route = self._api.route(method)
        if route is None or not route.body:
            return ""
        if route.body != "*":
            return f"; the body is `{route.body}`"
        in_path = ", ".join(f"`{each}`" for each in route.variables)
        return f"; the body is the request{f' without {in_path}' if in_path else ''}"

    def _access(self, method: Any) -> str:
        access = self._api.option(method, f"{PACKAGE}.access")
        missing = "; what does not exist is answered, too" if access.may_be_missing else ""
        match access.WhichOneof("rule"):
            case "anyone":
                return "none"
            case "anyone_until_admin_key":
                return "none until the operator has set an admin key, then that"
            case "any_key":
                return f"any{missing}"
            case "project_field":
                return f"one of the project in `{access.project_field}`, or the admin's{missing}"
            case _:
                return f"one of the project whose execution `{access.execution_field}` is, or the admin's{missing}"

    def _message(self, message: Any) -> Iterator[str]:
        yield f"### {local(message)}\n"
        yield from self._comment(message)
        if rules := message_rules(self._api, message):
            yield paragraph(f"Rules: {'; '.join(rules)}.")
        told: set[str] = set()
        for field in message.fields:
            oneof = None if in_presence_oneof(field) else field.containing_oneof
            if oneof is None:
                yield self._field(field, 0)
            elif oneof.name not in told:
                told.add(oneof.name)
                yield item(f"**`{oneof.name}`**, one of: {self._line(oneof)}")
                yield from (self._field(each, 1) for each in oneof.fields)
        if not message.fields:
            yield "No fields."
        yield ""

    def _field(self, field: Any, level: int) -> str:
        presence = ["optional"] if in_presence_oneof(field) else []
        said = "; ".join([self._type(field), *presence, *field_rules(self._api, field)])
        return item(f"**`{field.name}`** ({said}): {self._line(field)}", level)

    def _enum(self, enum: Any) -> Iterator[str]:
        yield f"### {local(enum)}\n"
        yield from self._comment(enum)
        for value in enum.values:
            text = self._links.within(self._api.value_text(enum, value))
            yield item(f"**`{value.name}`** ({value.number}): {text}")
        yield ""

    def _type(self, field: Any) -> str:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = (self._single(entry.fields_by_name[name]) for name in ("key", "value"))
            return f"map from {key} to {value}"
        return f"list of {self._single(field)}" if field.is_repeated else self._single(field)

    def _single(self, field: Any) -> str:
        named = field.message_type or field.enum_type
        return _SCALARS[field.type] if named is None else self._named(named)

    def _named(self, descriptor: Any) -> str:
        return self._links.to(local(descriptor))

    def _comment(self, descriptor: Any) -> Iterator[str]:
        yield from paragraphs(self._api.comment(descriptor), self._links)

    def _line(self, descriptor: Any) -> str:
        return self._links.within(" ".join(self._api.comment(descriptor).split()))


def _types(message: Any) -> Iterator[Any]:
    """A message, and the messages and enums in it, but for the entries of maps."""
    if not message.GetOptions().map_entry:
        yield message
        yield from message.enum_types
        for nested in message.nested_types:
            yield from _types(nested)
