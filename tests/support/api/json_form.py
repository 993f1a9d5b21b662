"""The API's methods by name, and their messages in the JSON form that the contract gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cloutagent.v1 import execution_pb2, project_pb2, secret_pb2, system_pb2

Json = dict[str, Any]

_FILES = (project_pb2.DESCRIPTOR, secret_pb2.DESCRIPTOR, execution_pb2.DESCRIPTOR, system_pb2.DESCRIPTOR)


@dataclass(frozen=True)
class HttpRoute:
    """The REST route of a method: `body` is `*`, the name of a field, or empty."""

    verb: str
    template: str
    body: str


@dataclass(frozen=True)
class Method:
    """One method of the API."""

    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        """Its gRPC path."""
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def service(self) -> str:
        """Name of its service."""
        return self.descriptor.containing_service.name

    @property
    def route(self) -> HttpRoute | None:
        """Its REST route; None for one that only gRPC has."""
        options = self.descriptor.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            return None
        rule = options.Extensions[annotations_pb2.http]
        verb = rule.WhichOneof("pattern")
        return HttpRoute(verb.upper(), getattr(rule, verb), rule.body)

    def request(self, body: Mapping[str, Any]) -> Message:
        """The request that a JSON body stands for."""
        message: Message = GetMessageClass(self.descriptor.input_type)()
        json_format.ParseDict(dict(body), message)
        return message


METHODS: Mapping[str, Method] = {
    method.name: Method(method)
    for file in _FILES
    for service in file.services_by_name.values()
    for method in service.methods
}


def to_json(message: Message) -> Json:
    """An answer as REST shows it: every field that has no explicit presence is printed."""
    document: Json = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return document


def event_from_text(document: Json) -> Json:
    """An event of a text stream as the other answers show it: they leave the fraction of a whole second out."""
    message = execution_pb2.ExecutionEvent()
    json_format.ParseDict(document, message)
    event = to_json(message)
    assert document == {**event, "time": document["time"]}, "the text is not the JSON form of the event"
    return event
