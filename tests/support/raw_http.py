"""HTTP/1.1 without a client's manners: bytes as they are, and what is answered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import h11

_DEADLINE = 10.0


@dataclass(frozen=True)
class RawAnswer:
    """An answer: its status, its headers with names in small letters, its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON in the body."""
        return json.loads(self.body)


async def answer_to(port: int, request: bytes) -> RawAnswer:
    """What the server on this port answers to these bytes, which are all that it gets; within 10 s."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(_DEADLINE):
            return await read_answer(reader)
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader) -> RawAnswer:
    """The next answer of a connection, as to a GET."""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    http.send(h11.EndOfMessage())
    head: h11.Response | None = None
    body = bytearray()
    while not isinstance(event := http.next_event(), h11.EndOfMessage):
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(65_536))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
    assert head is not None
    headers = {name.decode(): value.decode() for name, value in head.headers}
    assert len(headers) == len(head.headers), "a header comes twice"
    return RawAnswer(head.status_code, headers, bytes(body))
