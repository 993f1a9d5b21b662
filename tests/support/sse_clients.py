"""Well-known clients of server-sent events. Each follows one stream until it gives up, and tells what it gets.

| what is told | what it means |
|---|---|
| `{"open": true}` | a stream was opened |
| `{"id", "event", "data"}` | an event came |
| `{"event": "error", "data"}` | the server's event `error` came |
| `{"lost": true}` | the connection is gone, and the client tries again |
| `{"stopped": status}` | it does not try again, because of this HTTP status; null: because the stream had ended |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
from httpx_sse import aconnect_sse

CLIENTS: Final = Path(__file__).parents[1] / "clients"

Told = dict[str, Any]
Client = Callable[[str, str], AsyncGenerator[Told, None]]
"""From URL and API key to what is told."""


async def node(script: str, key: str, *arguments: str) -> AsyncGenerator[Told, None]:
    """A client in `tests/clients`, which `make setup` installs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("node", str(CLIENTS / script), *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(key.encode())
        process.stdin.close()
        async for line in process.stdout:
            yield json.loads(line)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def eventsource(url: str, key: str) -> AsyncGenerator[Told, None]:
    """The npm package `eventsource`."""
    return node("eventsource.js", key, url)


def fetch_event_source(url: str, key: str) -> AsyncGenerator[Told, None]:
    """The npm package `@microsoft/fetch-event-source`."""
    return node("fetch_event_source.js", key, url)


async def httpx_sse(url: str, key: str) -> AsyncGenerator[Told, None]:
    """The Python package `httpx-sse`, which leaves it to its user to connect again; this one does as browsers do."""
    last = ""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        while True:
            headers = {"x-api-key": key} | ({"last-event-id": last} if last else {})
            try:
                async with aconnect_sse(client, "GET", url, headers=headers) as source:
                    if source.response.status_code != 200:
                        yield {"stopped": source.response.status_code}
                        return
                    yield {"open": True}
                    async for event in source.aiter_sse():
                        if event.event == "error":
                            yield {"event": "error", "data": event.data}
                        else:
                            last = event.id
                            yield {"id": event.id, "event": event.event, "data": event.data}
            except httpx.TransportError:
                pass
            yield {"lost": True}
