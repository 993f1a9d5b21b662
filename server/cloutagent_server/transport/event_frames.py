"""Events as they lie in the answers of WatchExecution and ExecuteStream: encoded once, however many watch.

Both answers are lists of events in the same field, so that an answer is its events' frames one after the other.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from cloutagent.v1.execution_pb2 import ExecutionEvent, TextDeltaEvent, WatchExecutionResponse
from cloutagent_server.domain.events import StoredEvent, TextDelta
from cloutagent_server.transport.event_codec import to_proto

# Who catches up gets answers of 256 events; one with less is taken for a live one, which others are about to send too.
_LIVE_EVENTS: Final = 255

# The common event: text without an escape, which is the same in JSON and in protobuf.
_PLAIN_TEXT: Final = re.compile(
    rb'\{"executionId":"([^"\\]*)","sequence":\d+,"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z",'
    rb'"kind":"text_delta","textDelta":\{"text":"([^"\\]+)"\}\}'
)


_BYTES: Final = tuple(bytes((value,)) for value in range(256))


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _BYTES[value]
    if value < 0x4000:
        return _BYTES[value & 0x7F | 0x80] + _BYTES[value >> 7]
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


# The milliseconds of a timestamp as the field of its nanoseconds, which is left out when it is 0.
_NANOS: Final = {b"%03d" % number: b"\x10" + _varint(number * 1_000_000) if number else b"" for number in range(1_000)}


def _tag(message: type[ExecutionEvent | TextDeltaEvent | WatchExecutionResponse], field: str) -> bytes:
    """What a field with a length begins with."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_EVENTS: Final = _tag(WatchExecutionResponse, "events")
_EXECUTION_ID: Final = _tag(ExecutionEvent, "execution_id")
_SEQUENCE: Final = bytes([ExecutionEvent.DESCRIPTOR.fields_by_name["sequence"].number << 3])
_TIME: Final = _tag(ExecutionEvent, "time")
_TEXT_DELTA: Final = _tag(ExecutionEvent, "text_delta")
_TEXT: Final = _tag(TextDeltaEvent, "text")
_KIND: Final = ExecutionEvent(kind=TextDelta.kind).SerializeToString()


def encode(event: StoredEvent) -> bytes:
    """The event as protobuf."""
    plain = _PLAIN_TEXT.fullmatch(event.data)
    if plain is None:
        return to_proto(event).SerializeToString()
    execution_id, second, milliseconds, text = plain.groups()
    time = _seconds(second) + _NANOS[milliseconds]
    size = _varint(len(text))
    return b"%b%b%b%b%c%b%b%b%b%b%b%b" % (
        _execution_id(execution_id),
        _SEQUENCE,
        _varint(event.sequence),
        _TIME,
        len(time),
        time,
        _KIND,
        _TEXT_DELTA,
        _varint(1 + len(size) + len(text)),
        _TEXT,
        size,
        text,
    )


def framed(encoded: bytes) -> bytes:
    """An encoded event as one of an answer's events."""
    return _EVENTS + _varint(len(encoded)) + encoded


class EventFrames:
    """Answers made of events. The frames of those sent last, in live batches, are kept for the other watchers."""

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        """`max_bytes` bounds what is kept."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._frames: OrderedDict[bytes, bytes] = OrderedDict()
        self._latest: tuple[tuple[bytes, bytes], bytes] = ((b"", b""), b"")

    def answer(self, events: Sequence[StoredEvent]) -> bytes:
        """The answer that holds these events."""
        if len(events) > _LIVE_EVENTS:
            return b"".join([framed(encode(event)) for event in events])
        # Watchers that keep up send the very answer that another one has just sent.
        key = (events[0].data, events[-1].data)
        if self._latest[0] != key:
            self._latest = (key, b"".join([self._live(event) for event in events]))
        return self._latest[1]

    def _live(self, event: StoredEvent) -> bytes:
        # The stored bytes tell the event: watchers at the end of a log share them, so that they are hashed once.
        frame = self._frames.get(event.data)
        if frame is None:
            frame = framed(encode(event))
            self._frames[event.data] = frame
            self._bytes += len(event.data) + len(frame)
            while self._bytes > self._max_bytes:
                data, dropped = self._frames.popitem(last=False)
                self._bytes -= len(data) + len(dropped)
        return frame


@lru_cache(maxsize=256)
def _execution_id(text: bytes) -> bytes:
    """The execution's id, as its field."""
    return _EXECUTION_ID + _varint(len(text)) + text


@lru_cache(maxsize=256)
def _seconds(text: bytes) -> bytes:
    """The seconds of a timestamp, as its field."""
    seconds = int(datetime.fromisoformat(text.decode() + "+00:00").timestamp())
    return b"\x08" + _varint(seconds & 0xFFFFFFFFFFFFFFFF) if seconds else b""
