"""HTTP/1.1 without a client's manners: bytes as they are, and what is answered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

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
    """The next answer of a connection; its length has to be told."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    assert len(headers) == len(lines), "a header comes twice"
    return RawAnswer(int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"])))
