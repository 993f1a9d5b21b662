"""Serves a listener with a bound on its connections, so that who connects to it cannot take the server's descriptors.

What passes the bound stays in the kernel's queue, which takes no descriptor of this process, until another one ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final

_PAUSE_SECONDS: Final = 0.2
# The kernel's queue. Nobody but the run itself waits behind it.
_BACKLOG: Final = 16


class BoundedSite:
    """Serves `listener` with the protocols that `make` makes, at most `most` connections at a time.

    It takes the listener over. `start` comes once.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], listener: socket.socket, most: int) -> None:
        self._make = make
        self._listener = listener
        self._room = asyncio.Semaphore(most)
        self._connections: set[_Connection] = set()
        self._accepting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Serve from now on."""
        self._listener.setblocking(False)
        self._listener.listen(_BACKLOG)
        self._accepting = asyncio.create_task(self._accept())

    @property
    def serving(self) -> bool:
        """Whether connections are taken."""
        return self._accepting is not None and not self._accepting.done()

    async def stop(self) -> None:
        """Close the listener and all its connections."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait({self._accepting})
        self._listener.close()
        for connection in tuple(self._connections):
            connection.abort()

    async def _accept(self) -> None:
        while True:
            await self._room.acquire()
            try:
                accepted, _ = await asyncio.get_running_loop().sock_accept(self._listener)
                await self._take(accepted)
            except OSError:
                # No descriptor is left for it, or whoever connected is gone.
                self._room.release()
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _take(self, accepted: socket.socket) -> None:
        connection = _Connection(self._make(), self._lost)
        self._connections.add(connection)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except BaseException:
            self._connections.discard(connection)
            accepted.close()
            raise

    def _lost(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._room.release()


class _Connection(asyncio.Protocol):
    """Passes everything on to `protocol`, and tells `lost` once when it is over."""

    def __init__(self, protocol: asyncio.Protocol, lost: Callable[[_Connection], None]) -> None:
        self._protocol = protocol
        self._lost = lost
        self._transport: Any = None

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._protocol.connection_lost(exc)
        finally:
            self._lost(self)
