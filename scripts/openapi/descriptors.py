"""The API as its descriptors tell it: services, routes, options, and comments by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from scripts.openapi.elements import comments
from scripts.proto_image import compile_protos, own_files

PACKAGE = "cloutagent.v1"


@dataclass(frozen=True)
class Route:
    """How a method is called over REST.

    Attributes:
        verb: `get`, `post` and so on.
        template: The path with its variables in braces, as the proto spells them.
        body: `*` for the whole request, else the field that the body stands for, or empty for no body.
    """

    verb: str
    template: str
    body: str

    @property
    def variables(self) -> list[str]:
        """Paths of the fields that stand in the path, for example `project.id`."""
        return re.findall(r"{([^}]+)}", self.template)


class Api:
    """The descriptors of the protos below `protos`.

    Raises:
        ProtocFailed: A file does not compile.
    """

    def __init__(self, protos: Path) -> None:
        image = compile_protos(protos, source_info=True)
        self._pool = DescriptorPool()
        for file in image.file:
            self._pool.Add(file)
        own = [file for file in image.file if file.name in set(own_files(protos))]
        self._comments = {f"{file.package}.{name}": text for file in own for name, text in comments(file)}
        self.files: Sequence[Any] = [self._pool.FindFileByName(file.name) for file in own]
        self.services: Sequence[Any] = [service for file in self.files for service in file.services_by_name.values()]

    @property
    def methods(self) -> list[Any]:
        """Every method, service by service."""
        return [method for service in self.services for method in service.methods]

    def message(self, name: str) -> Any:
        """The message of the API with this name."""
        return self._pool.FindMessageTypeByName(f"{PACKAGE}.{name}")

    def enum(self, name: str) -> Any:
        """The enum of the API with this name."""
        return self._pool.FindEnumTypeByName(f"{PACKAGE}.{name}")

    def option(self, descriptor: Any, extension: str) -> Any:
        """The value of an option of ours or of others, for example `buf.validate.field`; None where it is not set."""
        options = descriptor.GetOptions()
        # Read again with the pool that knows all extensions, whatever modules this process has imported.
        kind = GetMessageClass(self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name))
        known: Any = kind.FromString(options.SerializeToString())
        found = self._pool.FindExtensionByName(extension)
        value = known.Extensions[found]
        present = len(value) > 0 if found.is_repeated else known.HasExtension(found)
        return value if present else None

    def route(self, method: Any) -> Route | None:
        """The method's REST route; None for one that only gRPC has."""
        rule = self.option(method, "google.api.http")
        if rule is None:
            return None
        verb = rule.WhichOneof("pattern")
        return Route(verb, getattr(rule, verb), rule.body)

    def comment(self, descriptor: Any) -> str:
        """The comment of an element of ours as it is written."""
        return self._comments.get(descriptor.full_name, "")

    def text(self, descriptor: Any) -> str:
        """The comment of an element of ours, a line for each paragraph, with fields spelled as JSON spells them."""
        paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", self.comment(descriptor))]
        return re.sub(r"`([\w.]+)`", self._json_spelling, "\n\n".join(paragraphs))

    def value_text(self, enum: Any, value: Any) -> str:
        """The comment of an enum's value, on one line."""
        return " ".join(self._comments.get(f"{enum.full_name}.{value.name}", "").split())

    def _json_spelling(self, quoted: re.Match[str]) -> str:
        names = quoted[1].split(".")
        return f"`{'.'.join(self._json_names.get(name, name) for name in names)}`"

    @cached_property
    def _json_names(self) -> dict[str, str]:
        """Of all fields of requests and answers. A member of a oneof keeps its name, which is a word of the API too."""
        reached = (each for method in self.methods for each in (method.input_type, method.output_type))
        return {
            field.name: field.json_name
            for message in closure(reached)
            for field in message.fields
            if field.containing_oneof is None or in_presence_oneof(field)
        }


def closure(messages: Iterator[Any] | Sequence[Any]) -> list[Any]:
    """These messages and all of their fields' messages, each once."""
    found: dict[str, Any] = {}
    waiting = list(messages)
    while waiting:
        message = waiting.pop(0)
        if message.full_name not in found:
            found[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return list(found.values())


def in_presence_oneof(field: Any) -> bool:
    """Whether the field is `optional`: alone in a oneof that protoc made for it."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) == 1 and oneof.name == f"_{field.name}"
