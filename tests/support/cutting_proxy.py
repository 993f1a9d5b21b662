"""A TCP proxy that cuts the first connection through it, at a place that the test names."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class CuttingProxy:
    """Passes connections on to a port of this machine.

    Attributes:
        port: Where it listens.
        requests: What clients have sent, by connection.
    """

    def __init__(self, target_port: int, after: bytes) -> None:
        """The first connection ends behind the first occurrence of `after` in the answer, however it was cut up."""
        self.port = 0
        self.requests: list[bytearray] = []
        self._target_port = target_port
        self._after = after
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[CuttingProxy]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._pass_on(reader, writer)))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cuts = not self.requests
        request = bytearray()
        self.requests.append(request)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        asking = asyncio.create_task(self._ask(reader, upstream_writer, request))
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer(upstream_reader, writer, cuts)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            writer.close()
            upstream_writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytearray) -> None:
        while data := await reader.read(65_536):
            request += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cuts: bool) -> None:
        seen = b""
        while data := await reader.read(65_536):
            at = (seen + data).find(self._after) if cuts else -1
            if at >= 0:
                writer.write(data[: at + len(self._after) - len(seen)])
                await writer.drain()
                return
            seen = (seen + data)[1 - len(self._after) :] if len(self._after) > 1 else b""
            writer.write(data)
            await writer.drain()
