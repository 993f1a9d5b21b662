"""What text streams are made of: frames of server-sent events, lines of JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.support.api.json_form import Json


@dataclass(frozen=True)
class Frame:
    """One server-sent event. `id` is empty where the frame has none."""

    id: str
    event: str
    data: str

    @property
    def document(self) -> Json:
        """Its data, which is JSON."""
        document: Json = json.loads(self.data)
        return document


async def sse_frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """The events of a stream, without comments. Every frame has data, for there are clients that hand over any."""
    fields: dict[str, str] = {}
    async for line in _separated(chunks, b"\n"):
        if line:
            name, _, value = line.decode().partition(": ")
            if name:
                assert name not in fields, f"{name} comes twice in a frame"
                fields[name] = value
        else:
            yield Frame(fields.get("id", ""), fields.get("event", "message"), fields["data"])
            fields = {}
    assert not fields.keys() - {"retry"}, f"the stream ends within {fields}"


async def json_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    """The documents of a stream, lines without text left out."""
    async for line in _separated(chunks, b"\n"):
        if line:
            yield json.loads(line)


async def _separated(chunks: AsyncIterator[bytes], separator: bytes) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(separator)
        for part in whole:
            yield part
    assert rest == b"", f"the stream ends within {rest!r}"
