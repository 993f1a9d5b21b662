"""Many watchers on one connection, as their sockets see them.

A hundred gRPC stubs in one Python process take longer to read an event than the server takes to send it. Watchers that
are programs of their own do not wait for each other, so these only note when the bytes of an event arrive.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived
from h2.settings import SettingCodes

SENT_AT: Final = re.compile(rb"at (\d+\.\d{6}) The quick")
_LONGEST: Final = 64
_WINDOW: Final = 2**31 - 1
_DEFAULT_WINDOW: Final = 65_535


class WatcherSockets(asyncio.Protocol):
    """Streams of one method with the same request.

    Attributes:
        opened: Done when the server has answered on all streams.
        arrived: Done when `expected` events have arrived.
        times: For each of them, how many seconds it took to come here.
    """

    def __init__(self, path: str, metadata: Sequence[tuple[str, str]], request: bytes, streams: int, expected: int):
        self._path = path
        self._metadata = metadata
        self._request = len(request).to_bytes(5, "big") + request
        self._streams = streams
        self._expected = expected
        self._http = H2Connection(H2Configuration(client_side=True))
        self._answered = 0
        self._rest = b""
        self.times: list[float] = []
        self.opened = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for all streams, with windows that are never used up."""
        self._transport = cast(asyncio.Transport, transport)
        self._http.initiate_connection()
        self._http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW})
        self._http.increment_flow_control_window(_WINDOW - _DEFAULT_WINDOW)
        headers = [(":method", "POST"), (":scheme", "http"), (":path", self._path), (":authority", "benchmark")]
        headers += [("te", "trailers"), ("content-type", "application/grpc"), *self._metadata]
        for _ in range(self._streams):
            stream = self._http.get_next_available_stream_id()
            self._http.send_headers(stream, headers)
            self._http.send_data(stream, self._request, end_stream=True)
        self._transport.write(self._http.data_to_send())

    def data_received(self, data: bytes) -> None:
        """Take note of the events. HTTP is only spoken until the streams are open."""
        now = time.monotonic()
        if self._answered < self._streams:
            self._answered += sum(isinstance(event, ResponseReceived) for event in self._http.receive_data(data))
            self._transport.write(self._http.data_to_send())
            if self._answered == self._streams:
                self.opened.set_result(None)
        data = self._rest + data
        end = 0
        for found in SENT_AT.finditer(data):
            self.times.append(now - float(found[1]))
            end = found.end()
        self._rest = data[end:][-_LONGEST:]
        if len(self.times) >= self._expected and not self.arrived.done():
            self.arrived.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any longer."""
        for future in (self.opened, self.arrived):
            if not future.done():
                future.set_exception(exc or ConnectionError("the server closed the connection"))


@asynccontextmanager
async def watching_sockets(
    port: int, path: str, metadata: Sequence[tuple[str, str]], request: bytes, streams: int, events: int
) -> AsyncIterator[WatcherSockets]:
    """So many open streams on one connection, each of which is to get so many events."""
    transport, sockets = await asyncio.get_running_loop().create_connection(
        lambda: WatcherSockets(path, metadata, request, streams, streams * events), "127.0.0.1", port
    )
    try:
        await sockets.opened
        yield sockets
    finally:
        transport.close()
