"""What a proto file is made of, and the comment of each element."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
)

# A name within the file's package, and where the element stands, as `SourceCodeInfo.Location.path` tells it.
_Element = tuple[str, tuple[int, ...]]


def comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """The name of everything in a file that a reader may want explained, and the comment before it, perhaps empty.

    The file must have its `source_code_info`. Left out is what protoc made by itself: the oneofs of `optional` fields
    and the entries of maps. A value of an enum is named under it, though protobuf counts it to the scope around.
    """
    said = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    return ((name, said.get(path, "")) for name, path in _elements(file))


def _number(message: type[Any], field: str) -> int:
    return int(message.DESCRIPTOR.fields_by_name[field].number)


_SERVICE, _METHOD = _number(FileDescriptorProto, "service"), _number(ServiceDescriptorProto, "method")
_MESSAGE, _ENUM = _number(FileDescriptorProto, "message_type"), _number(FileDescriptorProto, "enum_type")
_EXTENSION = _number(FileDescriptorProto, "extension")
_NESTED, _NESTED_ENUM = _number(DescriptorProto, "nested_type"), _number(DescriptorProto, "enum_type")
_FIELD, _ONEOF = _number(DescriptorProto, "field"), _number(DescriptorProto, "oneof_decl")
_VALUE = _number(EnumDescriptorProto, "value")


def _elements(file: FileDescriptorProto) -> Iterator[_Element]:
    for index, service in enumerate(file.service):
        yield service.name, (_SERVICE, index)
        for place, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (_SERVICE, index, _METHOD, place)
    for index, message in enumerate(file.message_type):
        yield from _of_message(message, (_MESSAGE, index), message.name)
    for index, enum in enumerate(file.enum_type):
        yield from _of_enum(enum, (_ENUM, index), enum.name)
    for index, extension in enumerate(file.extension):
        yield extension.name, (_EXTENSION, index)


def _of_message(message: DescriptorProto, path: tuple[int, ...], name: str) -> Iterator[_Element]:
    yield name, path
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _FIELD, index)
    presence = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in presence:
            yield f"{name}.{oneof.name}", (*path, _ONEOF, index)
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _of_message(nested, (*path, _NESTED, index), f"{name}.{nested.name}")
    for index, enum in enumerate(message.enum_type):
        yield from _of_enum(enum, (*path, _NESTED_ENUM, index), f"{name}.{enum.name}")


def _of_enum(enum: EnumDescriptorProto, path: tuple[int, ...], name: str) -> Iterator[_Element]:
    yield name, path
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _VALUE, index)
