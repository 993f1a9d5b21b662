"""Connections that make one call again and again, with as little work as can be."""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from typing import Final, cast

from hpack import Encoder, NeverIndexedHeaderTuple

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)\r\n")

# RFC 9113: types of frames, flags, and the two settings that are sent.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD: Final = 9
_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535
_PREFIX: Final = 5
"""What comes before a message of gRPC."""


class Calls:
    """So many calls, shared by the connections that make them.

    Attributes:
        seconds: How long each took that has ended.
        done: Done when all have ended, or one has failed.
    """

    def __init__(self, count: int) -> None:
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count = count
        self._begun = 0

    def begin(self) -> bool:
        """Whether there is another call to make."""
        self._begun += 1
        return self._begun <= self._count

    def end(self, begun: float) -> None:
        """A call has ended that began then."""
        self.seconds.append(time.perf_counter() - begun)
        if len(self.seconds) == self._count:
            self.done.set_result(None)

    def fail(self, why: str) -> None:
        """A call has failed."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(why))


class HttpConnection(asyncio.Protocol):
    """GET over HTTP/1.1, one call after the other."""

    def __init__(self, path: str, key: str, calls: Calls) -> None:
        self._request = f"GET {path} HTTP/1.1\r\nhost: benchmark\r\nx-api-key: {key}\r\n\r\n".encode()
        self._calls = calls
        self._answer = b""
        self._begun = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody may close it as long as there are calls to make."""
        self._calls.fail("the server has closed a connection")

    def data_received(self, data: bytes) -> None:
        """Go on when the answer is whole."""
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._answer, 0, end + 2)
        if length is None or not self._answer.startswith(b"HTTP/1.1 200 "):
            self._calls.fail(f"an answer is not as expected: {self._answer[:end].decode()}")
        elif len(self._answer) >= end + 4 + int(length[1]):
            self._answer = b""
            self._calls.end(self._begun)
            self._send()

    def _send(self) -> None:
        if self._calls.begin():
            self._begun = time.perf_counter()
            self._transport.write(self._request)


class GrpcConnection(asyncio.Protocol):
    """A unary method of gRPC, so many calls at a time in one connection."""

    def __init__(self, path: str, key: str, message: bytes, in_flight: int, calls: Calls) -> None:
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "benchmark")]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), ("x-api-key", key)]
        # What no table remembers is the same bytes in every request.
        self._headers = Encoder().encode([NeverIndexedHeaderTuple(name, value) for name, value in headers])
        self._data = b"\0" + len(message).to_bytes(4, "big") + message
        self._in_flight = in_flight
        self._calls = calls
        self._stream = -1
        self._begun: dict[int, float] = {}
        self._received: defaultdict[int, int] = defaultdict(int)
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with windows that are never used up by what is measured here."""
        self._transport = cast(asyncio.Transport, transport)
        settings = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big")
            for number, value in ((_HEADER_TABLE_SIZE, 0), (_INITIAL_WINDOW_SIZE, _WINDOW))
        )
        window = (_WINDOW - _DEFAULT_WINDOW).to_bytes(4, "big")
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window))
        for _ in range(self._in_flight):
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody may close it as long as there are calls to make."""
        self._calls.fail("the server has closed the connection")

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        data, at = self._rest + data, 0
        while len(data) - at >= _FRAME_HEAD:
            end = at + _FRAME_HEAD + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._take(data[at + 3], data[at + 4], stream, data[at + _FRAME_HEAD : end])
            at = end
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, stream: int, content: bytes) -> None:
        if kind == _DATA:
            self._received[stream] += len(content)
        elif kind == _HEADERS and flags & _END_STREAM:
            # A call that failed has no message.
            if self._received.pop(stream, 0) <= _PREFIX:
                self._calls.fail("a call has no answer")
                return
            self._calls.end(self._begun.pop(stream))
            self._send()
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, content if kind == _PING else b""))
        elif kind in (_RST_STREAM, _GOAWAY):
            self._calls.fail(f"the server has refused: {content.hex()}")

    def _send(self) -> None:
        if self._calls.begin():
            self._stream += 2
            self._begun[self._stream] = time.perf_counter()
            self._transport.write(
                _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
                + _frame(_DATA, _END_STREAM, self._stream, self._data)
            )


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content
