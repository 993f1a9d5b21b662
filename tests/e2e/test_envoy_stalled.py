"""A reader of server-sent events that stops reading, behind the real Envoy: it is dropped, and resumes without loss."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import h11
import httpx
import pytest

from cloutagent_server.domain.events import Payload, StoredEvent
from cloutagent_server.service.watch import WatchService
from cloutagent_server.storage.base import ExecutionStorage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.transport.server import GrpcServer
from tests.support import builders
from tests.support.api.frames import sse_frames
from tests.support.edge_server import running_envoy
from tests.support.service_world import DEADLINE_SECONDS, World, make_world

pytestmark = pytest.mark.e2e

ADMIN_KEY = "an-admin-key-of-some-length"
TEXTS = 600
EVENTS = TEXTS + 3
HEADERS = {"host": "localhost", "accept": "text/event-stream", "x-api-key": ADMIN_KEY}


class NotedWatches(WatchService):
    """Watches of which it is known that one has ended."""

    def __init__(self, storage: ExecutionStorage) -> None:
        super().__init__(storage)
        self.ended = asyncio.Event()

    async def watch(self, execution_id: str, after_sequence: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        try:
            async with aclosing(super().watch(execution_id, after_sequence)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.ended.set()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    world = make_world(storage=storage, admin_key=ADMIN_KEY)
    world = replace(world, watches=NotedWatches(storage.executions))
    yield world
    world.authenticator.close()
    await storage.stop()


@pytest.fixture
async def port(world: World, tmp_path: Path) -> AsyncIterator[int]:
    """Where Envoy listens for a server that is not patient."""
    server = GrpcServer(world.services, stall_seconds=0.5)
    async with running_envoy(await server.start("127.0.0.1", 0), tmp_path / "envoy") as envoy:
        yield envoy.port
    await server.stop(grace=0)


async def long_log(world: World) -> str:
    """An execution that has ended, with a log that no buffer on the way takes whole."""
    project = await world.project()
    execution = await world.storage.executions.create(builders.execution(project.id))
    texts = [builders.text_delta(f"{number:05} " * 8_000) for number in range(TEXTS)]
    payloads: list[Payload] = [builders.queued(), builders.started(), *texts, builders.completed()]
    await world.storage.executions.append(builders.events(execution.id, payloads))
    return execution.id


class RawReader:
    """A connection that takes bytes only when it is asked to."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, path: str) -> None:
        request = h11.Request(method="GET", target=path, headers=list(HEADERS.items()))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._raw, self._http.send(request) + self._http.send(h11.EndOfMessage()))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, to its end."""
        loop = asyncio.get_running_loop()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await loop.sock_recv(self._raw, 65_536))
            elif isinstance(event, h11.Response):
                assert event.status_code == 200
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage)
                return


async def test_a_reader_that_stalls_is_dropped_and_resumes_without_loss(world: World, port: int) -> None:
    execution_id = await long_log(world)
    path = f"/api/v1/executions/{execution_id}/stream"
    assert isinstance(world.watches, NotedWatches)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            await loop.sock_connect(raw, ("127.0.0.1", port))
            reader = RawReader(raw)
            await reader.ask(path)
            await world.watches.ended.wait()
            # What was on its way is whole, and then the stream ends.
            seen = [frame async for frame in sse_frames(reader.chunks())]
    assert 0 < len(seen) < EVENTS
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS, trust_env=False) as client,
        client.stream("GET", path, headers={**HEADERS, "last-event-id": seen[-1].id}) as answer,
    ):
        assert answer.status_code == 200
        rest = [frame async for frame in sse_frames(answer.aiter_bytes())]
    assert [frame.id for frame in seen + rest] == [str(sequence) for sequence in range(1, EVENTS + 1)]
    texts = [frame.document["textDelta"]["text"][:5] for frame in (seen + rest)[2:-1]]
    assert texts == [f"{number:05}" for number in range(TEXTS)]
