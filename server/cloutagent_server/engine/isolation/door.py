"""Where sandboxes hand over the listener through which their agent reaches the model gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

from cloutagent_server.engine.isolation.enter import TAKEN

_NAME_BYTES: Final = 64
_SECONDS: Final = 30.0


class Served(Protocol):
    """A listener that is being served."""

    async def stop(self) -> None:
        """Serve it no more, and close it."""
        ...


class Door:
    """A Unix socket at `path`, in a folder that only this user may enter.

    `serve` gets the listener of a run's sandbox. Each connection is good for one, and only while its run is expected.
    """

    def __init__(self, path: Path, serve: Callable[[socket.socket], Awaitable[Served]]) -> None:
        self._path = path
        self._serve = serve
        self._expected: set[str] = set()
        self._taking: set[str] = set()
        self._served: dict[str, Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Wait for sandboxes. Raises OSError if the socket cannot be made."""
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            # The kernel takes no path longer than 107 bytes; this names the same place.
            self._socket.bind(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)
        self._socket.listen(128)
        self._start(self._accept(self._socket))

    async def close(self) -> None:
        """Take no listener any more, and stop serving those there are."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for run in tuple(self._served):
            await self.dismiss(run)
        if self._socket is not None:
            self._socket.close()
            self._path.unlink(missing_ok=True)

    def expect(self, run: str) -> None:
        """Take the listener of the run whose directory has this name, once."""
        self._expected.add(run)

    async def dismiss(self, run: str) -> None:
        """End the run's way to the gateway; nothing happens if it has none."""
        self._expected.discard(run)
        self._taking.discard(run)
        if served := self._served.pop(run, None):
            await served.stop()

    async def _accept(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(door)
            self._start(self._receive(connection))

    async def _receive(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await _readable(connection)
            message, descriptors, _, _ = socket.recv_fds(connection, _NAME_BYTES, 1)
            run = message.decode(errors="replace")
            listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
            if listeners and run in self._expected:
                self._expected.discard(run)
                self._taking.add(run)
                listeners[0].setblocking(False)
                served = await self._serve(listeners[0])
                if run not in self._taking:
                    await served.stop()
                    return
                self._taking.discard(run)
                self._served[run] = served
                connection.send(TAKEN)
            else:
                for listener in listeners:
                    listener.close()

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _set, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)
