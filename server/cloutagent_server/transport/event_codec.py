"""Stored events as protobuf messages and as text streams."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2

from cloutagent.v1 import execution_pb2
from cloutagent_server.domain import event_json, events
from cloutagent_server.transport.cost_codec import EXCEEDED, usage_to_proto
from cloutagent_server.transport.execution_codec import failure_to_proto, sdk_cost_to_proto
from cloutagent_server.transport.project_codec import timestamp

SSE_TYPE: Final = "text/event-stream"
NDJSON_TYPE: Final = "application/x-ndjson"


def to_proto(stored: events.StoredEvent) -> execution_pb2.ExecutionEvent:
    """The protobuf form of a stored event."""
    event = event_json.decode(stored.data)
    message = execution_pb2.ExecutionEvent(
        execution_id=event.execution_id, sequence=event.sequence, time=timestamp(event.time), kind=stored.kind
    )
    getattr(message, stored.kind).CopyFrom(_payload_to_proto(event.payload))
    return message


def heartbeat(execution_id: str, sequence: int, time: datetime) -> execution_pb2.ExecutionEvent:
    """A sign of life after the event with this sequence number."""
    return execution_pb2.ExecutionEvent(
        execution_id=execution_id,
        sequence=sequence,
        time=timestamp(time),
        kind="heartbeat",
        heartbeat=execution_pb2.HeartbeatEvent(),
    )


def _payload_to_proto(payload: events.Payload) -> Message:
    match payload:
        case events.Queued(position=position):
            return execution_pb2.QueuedEvent(position=position)
        case events.Started(model=model):
            return execution_pb2.StartedEvent(model=model)
        case events.TextDelta(text=text):
            return execution_pb2.TextDeltaEvent(text=text)
        case events.Message(text=text):
            return execution_pb2.MessageEvent(text=text)
        case events.ToolUse():
            return execution_pb2.ToolUseEvent(
                tool_use_id=payload.tool_use_id, name=payload.name, input=_struct(payload.input)
            )
        case events.ToolResult():
            return execution_pb2.ToolResultEvent(
                tool_use_id=payload.tool_use_id, content=payload.content, is_error=payload.is_error
            )
        case events.TokenUsed():
            return execution_pb2.TokenUsageEvent(
                usage=usage_to_proto(payload.usage),
                percent_of_token_limit=payload.percent_of_token_limit,
                percent_of_cost_limit=payload.percent_of_cost_limit,
                model=payload.model,
            )
        case events.LimitWarning(limit=limit, percent=percent):
            return execution_pb2.LimitWarningEvent(limit=EXCEEDED[limit], percent=percent)
        case events.Completed(result=result, usage=usage, duration=duration):
            return execution_pb2.CompletedEvent(
                result=result,
                usage=usage_to_proto(usage),
                duration=duration,
                sdk_cost=sdk_cost_to_proto(payload.sdk_cost),
                result_truncated=True if payload.truncated else None,
            )
        case events.Failed(failure=failure, usage=usage, duration=duration):
            return execution_pb2.FailedEvent(
                failure=failure_to_proto(failure),
                usage=usage_to_proto(usage),
                duration=duration,
                sdk_cost=sdk_cost_to_proto(payload.sdk_cost),
            )
        case events.Cancelled(usage=usage, duration=duration):
            return execution_pb2.CancelledEvent(
                usage=usage_to_proto(usage), duration=duration, sdk_cost=sdk_cost_to_proto(payload.sdk_cost)
            )


def _struct(document: Mapping[str, object]) -> Struct:
    struct = Struct()
    json_format.ParseDict(dict(document), struct)
    return struct


class TextStream(Protocol):
    """How events are written on a text stream. `content_type` is its media type."""

    content_type: str

    def opening(self) -> bytes:
        """What is sent at once, so that the caller sees the stream open."""
        ...

    def events(self, batch: Sequence[events.StoredEvent]) -> bytes:
        """Some events."""
        ...

    def message(self, kind: str, message: Message) -> bytes:
        """A message that is no stored event, with every field that has no explicit presence."""
        ...

    def heartbeat(self, message: Message) -> bytes:
        """A sign of life."""
        ...

    def error(self, status: status_pb2.Status) -> bytes:
        """Why the stream ends before the last event."""
        ...


class ServerSentEvents:
    """Server-sent events: `event:` is the kind, `data:` the event's JSON, `id:` the sequence.

    What is no event ends with its line, and not with an empty one: clients would take that for an event without data.
    The id comes last in its frame. Some clients take it as seen as soon as its line has come: one whose connection is
    cut inside of a frame must not resume behind an event that it never got.
    """

    content_type = SSE_TYPE

    def opening(self) -> bytes:
        """A comment, and how long to wait before reconnecting, in milliseconds."""
        return b": open\nretry: 1000\n"

    def events(self, batch: Sequence[events.StoredEvent]) -> bytes:
        """One frame an event."""
        return b"".join(
            [b"event: %b\ndata: %b\nid: %d\n\n" % (event.kind.encode(), event[1], event[0]) for event in batch]
        )

    def message(self, kind: str, message: Message) -> bytes:
        """A frame without an id."""
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), _json(message, whole=True))

    def heartbeat(self, message: Message) -> bytes:
        """A comment."""
        return b": heartbeat\n"

    def error(self, status: status_pb2.Status) -> bytes:
        """A frame `error` with the google.rpc.Status as JSON, without an id."""
        return b"event: error\ndata: %s\n\n" % _json(status)


class JsonLines:
    """One JSON event a line, heartbeats included."""

    content_type = NDJSON_TYPE

    def opening(self) -> bytes:
        """Nothing but the headers."""
        return b""

    def events(self, batch: Sequence[events.StoredEvent]) -> bytes:
        """One line an event."""
        return b"\n".join([*events.data_of(batch), b""])

    def message(self, kind: str, message: Message) -> bytes:
        """One line."""
        return _json(message, whole=True) + b"\n"

    def heartbeat(self, message: Message) -> bytes:
        """One line."""
        return _json(message) + b"\n"

    def error(self, status: status_pb2.Status) -> bytes:
        """A line `{"error": <google.rpc.Status>}`."""
        return b'{"error":%s}\n' % _json(status)


TEXT_STREAMS: Final[Sequence[TextStream]] = (ServerSentEvents(), JsonLines())


def text_stream_for(accept: str | None) -> TextStream:
    """The stream that an `Accept` header asks for: server-sent events unless it names newline-delimited JSON only."""
    named = accept or ""
    return JsonLines() if NDJSON_TYPE in named and SSE_TYPE not in named else ServerSentEvents()


def _json(message: Message, *, whole: bool = False) -> bytes:
    document = json_format.MessageToDict(message, always_print_fields_with_no_presence=whole)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
