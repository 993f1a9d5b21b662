"""A TCP proxy that cuts every connection after some bytes of the answers, chosen at random, and may lead elsewhere."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class UnsteadyProxy:
    """Passes connections on to a port of this machine.

    Attributes:
        target_port: Where new connections go.
        port: Where it listens.
        cuts: How many connections it has cut.
    """

    def __init__(self, target_port: int, bytes_of_life: Callable[[], int]) -> None:
        """A connection is cut when so many bytes of answers have passed."""
        self.target_port = target_port
        self.port = 0
        self.cuts = 0
        self._opened = 0
        self._silent = 0
        self._bytes_of_life = bytes_of_life
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[UnsteadyProxy]:
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

    def silence(self) -> None:
        """Pass nothing more on the connections that there are, and do not cut them: as a machine that is gone."""
        self._silent = self._opened

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._opened += 1
        number, writers = self._opened, [writer]
        try:
            with suppress(OSError):
                answers, requests = await asyncio.open_connection("127.0.0.1", self.target_port)
                writers.append(requests)
                life = self._bytes_of_life()
                ways = (self._copy(number, reader, requests, None), self._copy(number, answers, writer, life))
                tasks = [asyncio.ensure_future(way) for way in ways]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for each in writers:
                each.transport.abort()

    async def _copy(
        self, number: int, source: asyncio.StreamReader, target: asyncio.StreamWriter, life: int | None
    ) -> None:
        while data := await source.read(65_536):
            if number <= self._silent:
                continue
            if life is not None and len(data) >= life:
                target.write(data[:life])
                await target.drain()
                self.cuts += 1
                return
            life = None if life is None else life - len(data)
            target.write(data)
            await target.drain()


def random_life(seed: int, least: int, most: int) -> Callable[[], int]:
    """How many bytes connections live, one after the other."""
    chance = random.Random(seed)
    return lambda: chance.randint(least, most)
