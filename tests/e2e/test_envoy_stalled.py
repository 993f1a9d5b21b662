"""Readers of server-sent events that stop reading or go away, behind the real Envoy.

One that stops is dropped, and resumes without loss. However many stop, nobody else waits for them.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
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
from tests.support.api.rest import http_client
from tests.support.edge_server import running_envoy
from tests.support.service_world import DEADLINE_SECONDS, World, make_world

pytestmark = pytest.mark.e2e

ADMIN_KEY = "an-admin-key-of-some-length"
TEXTS = 600
EVENTS = TEXTS + 3
STALLED = 400
QUICK_SECONDS = 0.1
# Before a heartbeat could fail, and before a reader that stalls is dropped.
NOTICED_SECONDS = 5.0
HEADERS = {"host": "localhost", "accept": "text/event-stream", "x-api-key": ADMIN_KEY}


class NotedWatches(WatchService):
    """Watches of which it is known how many there are, and that one has ended."""

    def __init__(self, storage: ExecutionStorage) -> None:
        super().__init__(storage)
        self.count = 0
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()

    async def reach(self, count: int, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until there are so many."""
        async with asyncio.timeout(seconds):
            while self.count != count:
                self._changed.clear()
                await self._changed.wait()

    async def watch(self, execution_id: str, after_sequence: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        self.count += 1
        self._changed.set()
        try:
            async with aclosing(super().watch(execution_id, after_sequence)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            self.count -= 1
            self._changed.set()
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
def watches(world: World) -> NotedWatches:
    """Its watches."""
    assert isinstance(world.watches, NotedWatches)
    return world.watches


@asynccontextmanager
async def behind_envoy(world: World, folder: Path, stall_seconds: float) -> AsyncIterator[int]:
    """Where Envoy listens for a server that is so patient with readers that stall."""
    server = GrpcServer(world.services, stall_seconds=stall_seconds)
    async with running_envoy(await server.start("127.0.0.1", 0), folder) as envoy:
        yield envoy.port
    await server.stop(grace=0)


@pytest.fixture
async def port(world: World, tmp_path: Path) -> AsyncIterator[int]:
    """Where Envoy listens for a server that is not patient."""
    async with behind_envoy(world, tmp_path / "envoy", 0.5) as port:
        yield port


@pytest.fixture
async def patient(world: World, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that drops nobody in the time of a test."""
    async with behind_envoy(world, tmp_path / "envoy", 60) as port, http_client(f"127.0.0.1:{port}") as client:
        yield client


async def log_of(world: World, texts: int, *, ended: bool = True) -> str:
    """An execution with a log of so many texts of 48 KB."""
    project = await world.project()
    execution = await world.storage.executions.create(builders.execution(project.id))
    written = [builders.text_delta(f"{number:05} " * 8_000) for number in range(texts)]
    payloads: list[Payload] = [builders.queued(), builders.started(), *written]
    payloads += [builders.completed()] if ended else []
    await world.storage.executions.append(builders.events(execution.id, payloads))
    return execution.id


async def long_log(world: World) -> str:
    """An execution that has ended, with a log that no buffer on the way takes whole."""
    return await log_of(world, TEXTS)


async def stalled_reader(port: int, path: str) -> socket.socket:
    """A connection that has asked for a stream, with room for little, and reads nothing."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    await RawReader(raw).ask(path)
    return raw


async def longest_wait(client: httpx.AsyncClient, calls: int) -> float:
    """The longest of so many calls of the health check, one after the other, in seconds."""
    longest = 0.0
    for _ in range(calls):
        begun = time.perf_counter()
        assert (await client.get("/api/health")).status_code == 200
        longest = max(longest, time.perf_counter() - begun)
    return longest


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


async def test_a_reader_that_stalls_is_dropped_and_resumes_without_loss(
    world: World, watches: NotedWatches, port: int
) -> None:
    execution_id = await long_log(world)
    path = f"/api/v1/executions/{execution_id}/stream"
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(2 * DEADLINE_SECONDS):
            await loop.sock_connect(raw, ("127.0.0.1", port))
            reader = RawReader(raw)
            await reader.ask(path)
            await watches.ended.wait()
            # What was on its way is whole, and then the stream ends.
            seen = [frame async for frame in sse_frames(reader.chunks())]
    assert 0 < len(seen) < EVENTS
    async with (
        http_client(f"127.0.0.1:{port}") as client,
        client.stream("GET", path, headers={**HEADERS, "last-event-id": seen[-1].id}) as answer,
    ):
        assert answer.status_code == 200
        rest = [frame async for frame in sse_frames(answer.aiter_bytes())]
    assert [frame.id for frame in seen + rest] == [str(sequence) for sequence in range(1, EVENTS + 1)]
    texts = [frame.document["textDelta"]["text"][:5] for frame in (seen + rest)[2:-1]]
    assert texts == [f"{number:05}" for number in range(TEXTS)]


async def test_400_readers_that_stall_slow_nobody_else_down_and_are_noticed_when_they_go(
    world: World, watches: NotedWatches, patient: httpx.AsyncClient
) -> None:
    # 1.2 MB for each, of which the windows, buffers and sockets on the way take a quarter.
    path = f"/api/v1/executions/{await log_of(world, 25)}/stream"
    port = patient.base_url.port
    assert port is not None
    with ExitStack() as entered:
        readers = [entered.enter_context(await stalled_reader(port, path)) for _ in range(STALLED)]
        await watches.reach(STALLED)
        # Filling the buffers takes its share of the machine. Once they are full nobody waits, and nobody is done.
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await longest_wait(patient, 50) > QUICK_SECONDS:
                pass
        assert watches.count == STALLED
        for reader in readers:
            reader.close()
        await watches.reach(0, NOTICED_SECONDS)


async def test_a_quiet_reader_that_goes_away_is_noticed_at_once(
    world: World, watches: NotedWatches, patient: httpx.AsyncClient
) -> None:
    path = f"/api/v1/executions/{await log_of(world, 0, ended=False)}/stream"
    first = await patient.send(patient.build_request("GET", path, headers=HEADERS), stream=True)
    frames = sse_frames(first.aiter_bytes())
    assert [(await anext(frames)).event for _ in range(2)] == ["queued", "started"]
    async with patient.stream("GET", path, headers=HEADERS):
        await watches.reach(2)
    await watches.reach(1, NOTICED_SECONDS)
    await first.aclose()
    await watches.reach(0, NOTICED_SECONDS)
