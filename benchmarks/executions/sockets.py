"""Many watchers on one connection, as their socket sees them.

A hundred gRPC stubs in one Python process take longer to read an event than the server takes to send it. Watchers that
are programs of their own do not wait for each other, so these only note when bytes arrive, and read them afterwards.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes

SENT_AT: Final = re.compile(rb"at (\d+\.\d{6}) The quick")
_MARK: Final = b" The quick"
_LONGEST: Final = 64
_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535
_READ_BYTES: Final = 1 << 16
_SILENCE_SECONDS: Final = 30.0


class WatcherSocket:
    """Streams of one method with the same request. Methods block."""

    def __init__(self, port: int, path: str, metadata: Sequence[tuple[str, str]], request: bytes, streams: int) -> None:
        """Connect and ask for all streams, with windows that are never used up; returns when all were answered."""
        self._socket = socket.create_connection(("127.0.0.1", port), _SILENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        http = H2Connection(H2Configuration(client_side=True))
        http.initiate_connection()
        http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW})
        http.increment_flow_control_window(_WINDOW - _DEFAULT_WINDOW)
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "benchmark")]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), *metadata]
        for _ in range(streams):
            stream = http.get_next_available_stream_id()
            http.send_headers(stream, headers)
            http.send_data(stream, len(request).to_bytes(5, "big") + request, end_stream=True)
        answered = 0
        while answered < streams:
            self._socket.sendall(http.data_to_send())
            answered += sum(isinstance(event, ResponseReceived) for event in http.receive_data(self._read()))
        self._socket.sendall(http.data_to_send())

    def arrivals(self, events: int) -> Sequence[float]:
        """Wait for so many events on all streams together; how many seconds each took to come here."""
        reads, count, last = list[tuple[float, bytes]](), 0, b""
        while count < events:
            data = self._read()
            reads.append((time.monotonic(), data))
            # What ends in the middle of a mark is counted with what follows.
            last = last[-len(_MARK) + 1 :] + data
            count += last.count(_MARK)
        times, rest = list[float](), b""
        for at, data in reads:
            text, end = rest + data, 0
            for found in SENT_AT.finditer(text):
                times.append(at - float(found[1]))
                end = found.end()
            rest = text[end:][-_LONGEST:]
        return times

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self) -> bytes:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data


@asynccontextmanager
async def watching_socket(
    port: int, path: str, metadata: Sequence[tuple[str, str]], request: bytes, streams: int, events: int
) -> AsyncIterator[Awaitable[Sequence[float]]]:
    """So many open streams on one connection, each of which gets so many events; tells how long all of them took."""
    watcher = await asyncio.to_thread(WatcherSocket, port, path, metadata, request, streams)
    try:
        yield asyncio.create_task(asyncio.to_thread(watcher.arrivals, streams * events))
    finally:
        watcher.close()
