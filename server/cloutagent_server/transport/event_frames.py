"""Events as they lie in the answers of WatchExecution and ExecuteStream: encoded once, however many watch.

Both answers are lists of events in the same field, so that an answer is its events' frames one after the other.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Final

from cloutagent.v1.execution_pb2 import ExecutionEvent, TextDeltaEvent, WatchExecutionResponse
from cloutagent_server.domain.events import StoredEvent, TextDelta, data_of
from cloutagent_server.transport.event_codec import to_proto

ANSWER_EVENTS: Final = 256

# Most events are text. Where it has no escape, it is the same in JSON and in protobuf. Every line matches, others
# without groups.
_LINE: Final = (
    rb'(?m)^(?:\{"executionId":"%b","sequence":\d+,"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})Z",'
    rb'"kind":"text_delta","textDelta":\{"text":"([^"\\]+)"\}\}|.+)$'
)
_ID: Final = slice(len('{"executionId":"'), len('{"executionId":"00000000-0000-0000-0000-000000000000'))

_SHORT: Final = tuple(bytes((low,)) if low < 0x80 else bytes((low & 0x7F | 0x80, low >> 7)) for low in range(1 << 14))
_LOW_BITS: Final = tuple(bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(1 << 14))


def _varint(value: int) -> bytes:
    return _SHORT[value] if value < 0x4000 else _LOW_BITS[value & 0x3FFF] + _varint(value >> 14)


# The milliseconds of a timestamp as the field of its nanoseconds, which is left out when it is 0.
_NANOS: Final = {b"%03d" % number: b"\x10" + _varint(number * 1_000_000) if number else b"" for number in range(1_000)}


def _tag(message: type[ExecutionEvent | TextDeltaEvent | WatchExecutionResponse], field: str) -> bytes:
    """What a field with a length begins with."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_EVENTS: Final = _tag(WatchExecutionResponse, "events")
_EXECUTION_ID: Final = _tag(ExecutionEvent, "execution_id")
_SEQUENCE: Final = bytes([ExecutionEvent.DESCRIPTOR.fields_by_name["sequence"].number << 3])
# What a time begins with, by its length.
_TIMES: Final = tuple(_tag(ExecutionEvent, "time") + _varint(length) for length in range(24))
_TEXT_DELTA: Final = ExecutionEvent(kind=TextDelta.kind).SerializeToString() + _tag(ExecutionEvent, "text_delta")
_TEXT: Final = _tag(TextDeltaEvent, "text")


def frames(events: Sequence[StoredEvent]) -> Iterator[bytes]:
    """Events of one execution without gaps, each as one of an answer's events.

    A replay over gRPC is about as fast as this.
    """
    execution_id = events[0].data[_ID]
    head, line = _head(execution_id), _line(execution_id)
    data = data_of(events)
    found = line.findall(b"\n".join(data))
    pairs = zip(data, found, strict=True)
    for sequence, (one, (second, milliseconds, text)) in enumerate(pairs, events[0].sequence):
        if text:
            seconds, nanos = _seconds(second), _NANOS[milliseconds]
            time = _TIMES[len(seconds) + len(nanos)]
            yield framed(
                b"%b%b%b%b%b%b%b" % (head, _varint(sequence), time, seconds, nanos, _text_head(len(text)), text)
            )
        else:
            yield framed(to_proto(StoredEvent(sequence, one)).SerializeToString())


def framed(encoded: bytes) -> bytes:
    """An encoded event as one of an answer's events."""
    return b"%b%b%b" % (_EVENTS, _varint(len(encoded)), encoded)


class EventFrames:
    """Makes answers of events. Those at the end of a log are kept: other watchers get them in other batches."""

    def __init__(self, most_bytes: int = 1 << 19, most_logs: int = 32) -> None:
        """How much is kept of the end of a log, and of how many logs, those used last."""
        self._most_bytes = most_bytes
        self._most_logs = most_logs
        self._ends: OrderedDict[bytes, _End] = OrderedDict()

    def answer(self, events: Sequence[StoredEvent]) -> bytes:
        """The answer that holds these events of one execution."""
        # Who catches up gets whole answers, the same as others do.
        if len(events) >= ANSWER_EVENTS:
            return b"".join(frames(events))
        execution_id = events[0].data[_ID]
        end = self._ends.get(execution_id)
        if end is None or not end.reaches(events):
            end = self._ends[execution_id] = _End(events[0].sequence)
            while len(self._ends) > self._most_logs:
                self._ends.popitem(last=False)
        self._ends.move_to_end(execution_id)
        return end.answer(events, self._most_bytes)


class _End:
    """The last events of a log that were sent, without gaps, each with its frame."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._data: list[bytes] = []
        self._frames: list[bytes] = []
        self._bytes = 0

    def reaches(self, events: Sequence[StoredEvent]) -> bool:
        """Whether these events lie within what is kept, or go on from there. One that is another one does not."""
        start = events[0].sequence - self._first
        if not 0 <= start <= len(self._data):
            return False
        known = min(len(self._data) - start, len(events))
        return known == 0 or (
            self._data[start] == events[0].data and self._data[start + known - 1] == events[known - 1].data
        )

    def answer(self, events: Sequence[StoredEvent], most_bytes: int) -> bytes:
        """The answer; at most so many bytes of frames are kept after it."""
        start = events[0].sequence - self._first
        new = events[len(self._data) - start :]
        if new:
            made = list(frames(new))
            self._data += data_of(new)
            self._frames += made
            self._bytes += sum(map(len, made))
        answer = b"".join(self._frames[start : start + len(events)])
        surplus = 0
        while self._bytes > most_bytes:
            self._bytes -= len(self._frames[surplus])
            surplus += 1
        del self._data[:surplus], self._frames[:surplus]
        self._first += surplus
        return answer


@lru_cache(maxsize=256)
def _head(execution_id: bytes) -> bytes:
    """What an event of an execution begins with, up to its sequence number."""
    return _EXECUTION_ID + _varint(len(execution_id)) + execution_id + _SEQUENCE


@lru_cache(maxsize=256)
def _line(execution_id: bytes) -> re.Pattern[bytes]:
    """What finds the lines of an execution."""
    return re.compile(_LINE % re.escape(execution_id))


@lru_cache(maxsize=4_096)
def _text_head(length: int) -> bytes:
    """What comes before a text of so many bytes, from the kind of the event on."""
    size = _varint(length)
    return _TEXT_DELTA + _varint(1 + len(size) + length) + _TEXT + size


@lru_cache(maxsize=256)
def _seconds(text: bytes) -> bytes:
    """The seconds of a timestamp, as its field."""
    seconds = int(datetime.fromisoformat(text.decode() + "+00:00").timestamp())
    return b"\x08" + _varint(seconds & 0xFFFFFFFFFFFFFFFF) if seconds else b""
