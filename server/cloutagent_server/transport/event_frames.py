"""Events as they lie in the answers of WatchExecution and ExecuteStream: encoded once, however many watch.

Both answers are lists of events in the same field, so that an answer is its events' frames one after the other.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final, Generic, TypeVar

from cloutagent.v1.execution_pb2 import ExecutionEvent, TextDeltaEvent, WatchExecutionResponse
from cloutagent_server.domain.events import StoredEvent, TextDelta
from cloutagent_server.transport.event_codec import to_proto

# Who catches up gets answers of 256 events, which begin at the same events for all: they are kept as a whole.
_LIVE_EVENTS: Final = 255

# The common event: text without an escape, which is the same in JSON and in protobuf.
_PLAIN_TEXT: Final = re.compile(
    rb'\{"executionId":"([^"\\]*)","sequence":\d+,"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z",'
    rb'"kind":"text_delta","textDelta":\{"text":"([^"\\]+)"\}\}'
)


K = TypeVar("K")

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
    """Answers made of events. What was sent last is kept for the other watchers, who are about to send it too."""

    def __init__(self, max_bytes: int = 4 << 20) -> None:
        """`max_bytes` bounds what is kept: of events, and as much of answers."""
        self._frames = _Kept[bytes](max_bytes)
        self._answers = _Kept[tuple[bytes, bytes]](max_bytes)

    def answer(self, events: Sequence[StoredEvent]) -> bytes:
        """The answer that holds these events."""
        # The stored bytes tell the event. Watchers at the end of a log share them, so that they are hashed once.
        key = (events[0].data, events[-1].data)
        answer = self._answers.get(key)
        if answer is None:
            made = map(self._frame, events) if len(events) <= _LIVE_EVENTS else (framed(encode(one)) for one in events)
            answer = self._answers.keep(key, b"".join(made), sum(map(len, key)))
        return answer

    def _frame(self, event: StoredEvent) -> bytes:
        frame = self._frames.get(event.data)
        return self._frames.keep(event.data, framed(encode(event)), len(event.data)) if frame is None else frame


class _Kept(Generic[K]):
    """Bytes by key, those kept last, up to so many bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[K, tuple[bytes, int]] = OrderedDict()

    def get(self, key: K) -> bytes | None:
        """What is kept under a key."""
        kept = self._values.get(key)
        return None if kept is None else kept[0]

    def keep(self, key: K, value: bytes, key_bytes: int) -> bytes:
        """Keep a value that is not kept yet, whose key has so many bytes, and return it."""
        self._values[key] = (value, len(value) + key_bytes)
        self._bytes += len(value) + key_bytes
        while self._bytes > self._max_bytes:
            _, (_, size) = self._values.popitem(last=False)
            self._bytes -= size
        return value


@lru_cache(maxsize=256)
def _execution_id(text: bytes) -> bytes:
    """The execution's id, as its field."""
    return _EXECUTION_ID + _varint(len(text)) + text


@lru_cache(maxsize=256)
def _seconds(text: bytes) -> bytes:
    """The seconds of a timestamp, as its field."""
    seconds = int(datetime.fromisoformat(text.decode() + "+00:00").timestamp())
    return b"\x08" + _varint(seconds & 0xFFFFFFFFFFFFFFFF) if seconds else b""
