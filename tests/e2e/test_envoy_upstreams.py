"""Envoy and the servers behind it: what is asked again, what is refused, and the headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.api.rest import http_client
from tests.support.edge_server import EdgeServer, running_envoy
from tests.support.raw_http import answer_to

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
PROJECTS = "/api/v1/projects"
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "vary": "origin",
}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/health", 200),
        ("POST", "/api/v1/projects", 201),
        ("DELETE", "/api/v1/projects/p1", 204),
        ("GET", "/api/v1/projects/missing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/projects/code-13", 500),
        ("GET", "/api/v1/projects/%2F", 400),
        ("PUT", "/api/health", 405),
        ("OPTIONS", "/api/health", 204),
        ("GET", "/api/openapi.json", 200),
    ],
)
async def test_every_answer_has_the_headers(rest: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await rest.request(method, path, json={"name": "n"} if method == "POST" else None)
    assert response.status_code == status
    for name, value in HEADERS.items():
        assert response.headers.get_list(name) == [value]
    # Without TLS it would be a promise that nobody keeps.
    assert "strict-transport-security" not in response.headers


async def test_answers_to_faults_of_the_protocol_have_the_headers(envoy: EnvoyProcess) -> None:
    for request in (
        b"GET /api/health HTTP/1.1\r\nhost: a\r\nbad header: 1\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nhost: a\r\nunder_score: 1\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /api/health HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    ):
        answer = await answer_to(envoy.port, request)
        assert answer.status in (400, 431)
        assert HEADERS.items() <= answer.headers.items()


class Relay:
    """A way to a server that can be cut, as the network sees a server that dies."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._writers: list[asyncio.StreamWriter] = []
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def cut(self) -> None:
        """End all connections, and take no more."""
        assert self._listening is not None
        self._listening.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._listening.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while received := await reader.read(65536):
                writer.write(received)
                await writer.drain()
        writer.transport.abort()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Relay]:
        """Listen on a free port."""
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await self.cut()


@pytest.mark.parametrize(("method", "path"), [("GET", f"{PROJECTS}/wait"), ("POST", f"{PROJECTS}/p1/execute")])
async def test_what_reads_is_asked_again_of_another_server_and_what_changes_something_never_is(
    tmp_path: Path, method: str, path: str
) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(EdgeServer().serve()) for _ in range(2)]
        relays = [await stack.enter_async_context(Relay(each.port).open()) for each in servers]
        others = (("127.0.0.1", relays[1].port),)
        envoy = await stack.enter_async_context(running_envoy(relays[0].port, tmp_path, other_upstreams=others))
        rest = await stack.enter_async_context(http_client(f"127.0.0.1:{envoy.port}"))

        body = {"prompt": "wait"} if method == "POST" else None
        asked = asyncio.create_task(rest.request(method, path, json=body))
        async with asyncio.timeout(DEADLINE):
            waits = [asyncio.create_task(each.waiting.wait()) for each in servers]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        dying, living = (0, 1) if servers[0].waiting.is_set() else (1, 0)
        for wait in waits:
            wait.cancel()
        servers[living].gate.set()
        await relays[dying].cut()
        answer = await asked
        if method == "GET":
            assert (answer.status_code, len(servers[living].requests)) == (200, 1)
        else:
            assert (answer.status_code, servers[living].requests) == (503, [])
            assert answer.json()["code"] == 14
        # Whatever Envoy knows of the dead one by now: reads find the living one.
        for _ in range(10):
            assert (await rest.get(f"{PROJECTS}/p1")).status_code == 200
