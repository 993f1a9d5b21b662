"""Takes in the requests of agents: how many bytes of them are held at a time, and where large ones are read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from cloutagent_server.engine.request_body import BadBody, RequestBody, read_body

MOST_BYTES: Final = 32 * 1024 * 1024
"""The largest request that the Messages API takes."""
MOST_COUNTED_BYTES: Final = 8 * 1024 * 1024
"""The largest request that an agent may have counted: counting costs nothing, so that nothing else holds it back."""
RUN_BYTES: Final = 64 * 1024 * 1024
"""Bytes of the requests of one run that are worked at."""
SERVER_BYTES: Final = 256 * 1024 * 1024
"""Bytes of the requests of all runs that are worked at."""
_LARGE: Final = 128 * 1024


class TooLarge(Exception):
    """A request is larger than it may be."""


class NoRoom(Exception):
    """Too many bytes of other requests are being worked at."""


class Room:
    """A number of bytes that requests may take at a time, which count in `around` as well."""

    def __init__(self, most: int, around: Room | None = None) -> None:
        self._left = most
        self._around = around

    def take(self, size: int) -> None:
        """Take some bytes, or give some back.

        Raises:
            NoRoom: There are not so many left.
        """
        if size > self._left:
            raise NoRoom
        if self._around is not None:
            self._around.take(size)
        self._left -= size


class Holding:
    """The bytes that one request takes of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._size = 0

    def grow(self, size: int) -> None:
        """Take as much as is missing to `size`.

        Raises:
            NoRoom: There is not so much left.
        """
        if size > self._size:
            self._room.take(size - self._size)
            self._size = size

    def release(self) -> None:
        """Give all back."""
        self._room.take(-self._size)
        self._size = 0


@contextmanager
def holding(room: Room) -> Iterator[Holding]:
    """Bytes of a room, given back in the end."""
    held = Holding(room)
    try:
        yield held
    finally:
        held.release()


async def received(request: web.Request, held: Holding, most: int = MOST_BYTES) -> bytearray:
    """The body of a request, as it comes.

    Raises:
        TooLarge: It has more than `most` bytes.
        NoRoom: There is no room for it now.
        BadBody: It is not what its headers say it is.
    """
    data = bytearray()
    said = request.content_length or 0
    if said > most:
        raise TooLarge
    held.grow(said)
    try:
        while chunk := await request.content.readany():
            if len(data) + len(chunk) > most:
                raise TooLarge
            held.grow(len(data) + len(chunk))
            data += chunk
    except web.RequestPayloadError:
        raise BadBody("the request is malformed") from None
    return data


class Reader:
    """Reads bodies: small ones at once, large ones one after the other in a thread.

    A thread of its own, since what holds up the default ones holds up the storage; and one, so that no more than one
    large body at a time takes the memory that its text and values take.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway-body")

    async def read(self, raw: bytearray) -> RequestBody:
        """See `read_body`.

        Raises:
            BadBody: It is not worked at.
        """
        if len(raw) < _LARGE:
            return read_body(raw)
        return await asyncio.get_running_loop().run_in_executor(self._thread, read_body, raw)

    def stop(self) -> None:
        """Read nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
