"""Events on the wire: the stored line is protobuf's own JSON of the event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import status_pb2
from hypothesis import given, settings

from cloutagent.v1 import execution_pb2
from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.events import Event, StoredEvent, TextDelta
from cloutagent_server.transport import event_codec
from cloutagent_server.transport.event_codec import (
    NDJSON_TYPE,
    SSE_TYPE,
    JsonLines,
    ServerSentEvents,
    TextStream,
    text_stream_for,
)
from tests.support import builders
from tests.support.event_strategies import PAYLOAD_TYPES, events

ID = "6d0f2c1e-0000-4000-8000-000000000000"
BEAT = event_codec.heartbeat(ID, 8, builders.at(5))


def json_of(message: execution_pb2.ExecutionEvent) -> dict[str, Any]:
    """Protobuf's JSON of an event, its time spelled as this server spells it: always with milliseconds."""
    document = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    document["time"] = timestamps.to_text(datetime.fromisoformat(document["time"]))
    return document


@settings(max_examples=300)
@given(events())
def test_the_stored_line_is_the_json_of_the_message(event: Event) -> None:
    stored = event_json.encode(event)
    assert json.loads(stored.data) == json_of(event_codec.to_proto(stored))


@settings(max_examples=300)
@given(events())
def test_the_json_of_the_message_is_read_as_the_message(event: Event) -> None:
    stored = event_json.encode(event)
    message = event_codec.to_proto(stored)
    assert json_format.Parse(stored.data, execution_pb2.ExecutionEvent()) == message
    assert message.WhichOneof("payload") == message.kind == stored.kind
    assert (message.execution_id, message.sequence) == (event.execution_id, event.sequence)
    assert message.time.ToDatetime(UTC) == event.time


def test_every_kind_of_the_api_is_stored_but_the_heartbeat() -> None:
    kinds = {field.name for field in execution_pb2.ExecutionEvent.DESCRIPTOR.oneofs_by_name["payload"].fields}
    assert kinds == {kind.kind for kind in PAYLOAD_TYPES} | {"heartbeat"}


def test_every_payload_of_a_run_keeps_its_fields() -> None:
    payloads = [*builders.payloads_of_a_run(), builders.failed(), builders.cancelled()]
    for event in builders.events(ID, payloads):
        stored = event_json.encode(event)
        message = event_codec.to_proto(stored)
        assert json.loads(stored.data) == json_of(message)


def test_a_heartbeat_repeats_the_sequence_of_the_last_event() -> None:
    beat = event_codec.heartbeat(ID, 7, builders.at(5))
    assert (beat.execution_id, beat.sequence, beat.kind, beat.WhichOneof("payload")) == (
        ID,
        7,
        "heartbeat",
        "heartbeat",
    )
    assert beat.time.ToDatetime(UTC) == builders.at(5)


# Text streams.


def stored(sequence: int, text: str = "hi\nyou") -> StoredEvent:
    return event_json.encode(builders.event(ID, sequence, TextDelta(text)))


def frames(data: bytes) -> list[dict[str, str]]:
    """Server-sent events as a browser reads them."""
    read = []
    for frame in data.decode().split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in frame.split("\n"):
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
        read.append(fields)
    return read


STATUS = status_pb2.Status(code=5, message="the execution does not exist\nat all")


def test_server_sent_events() -> None:
    stream = ServerSentEvents()
    assert stream.content_type == SSE_TYPE
    one, two = stored(7), stored(8)
    assert frames(stream.events([one, two])) == [
        {"id": "7", "event": "text_delta", "data": one.data.decode()},
        {"id": "8", "event": "text_delta", "data": two.data.decode()},
    ]
    assert stream.events([]) == b""


def test_a_server_sent_heartbeat_and_opening_are_no_events() -> None:
    stream = ServerSentEvents()
    assert stream.heartbeat(BEAT) == b": heartbeat\n"
    assert stream.opening().startswith(b": ")
    assert b"\nretry: 1000\n" in stream.opening()
    assert stream.opening().endswith(b"\n") and b"\n\n" not in stream.opening()


def test_a_server_sent_error_has_no_id() -> None:
    [frame] = frames(ServerSentEvents().error(STATUS))
    assert frame.keys() == {"event", "data"}
    assert frame["event"] == "error"
    assert json.loads(frame["data"]) == {"code": 5, "message": "the execution does not exist\nat all"}


def test_json_lines() -> None:
    stream = JsonLines()
    assert stream.content_type == NDJSON_TYPE
    one, two = stored(7), stored(8)
    assert stream.events([one, two]) == one.data + b"\n" + two.data + b"\n"
    assert stream.events([]) == b""
    assert stream.opening() == b""
    line = stream.heartbeat(BEAT)
    assert line.endswith(b"}\n")
    assert json_format.Parse(line, execution_pb2.ExecutionEvent()) == BEAT
    assert json.loads(stream.error(STATUS)) == {"error": {"code": 5, "message": "the execution does not exist\nat all"}}
    assert stream.error(STATUS).count(b"\n") == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, ServerSentEvents),
        ("", ServerSentEvents),
        ("*/*", ServerSentEvents),
        ("text/event-stream", ServerSentEvents),
        ("application/json", ServerSentEvents),
        ("application/x-ndjson", JsonLines),
        ("text/html, application/x-ndjson;q=0.9", JsonLines),
        ("text/event-stream, application/x-ndjson", ServerSentEvents),
    ],
)
def test_the_stream_is_what_accept_asks_for(accept: str | None, kind: type[TextStream]) -> None:
    assert isinstance(text_stream_for(accept), kind)
