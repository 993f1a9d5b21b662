"""What no caller can do to the others: fill the places of their calls, the memory, or the way to the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from cloutagent.v1 import project_pb2, project_pb2_grpc
from cloutagent_server.envoy_config import EnvoyAddresses, rendered_config
from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.api.rest import http_client
from tests.support.edge_server import EdgeServer, assert_error, running_envoy
from tests.support.raw_http import answer_to

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
MIB = 1 << 20


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Has Envoys that are started from now on run with a configuration that this changes."""

    def change(by: Callable[[dict[str, Any]], None]) -> None:
        def rendered(addresses: EnvoyAddresses) -> dict[str, Any]:
            config = rendered_config(addresses)
            by(config)
            return config

        monkeypatch.setattr("cloutagent_server.envoy_process.rendered_config", rendered)

    return change


def two_places(config: dict[str, Any]) -> None:
    """Two places for everything that has places of its own."""
    for cluster in config["static_resources"]["clusters"]:
        for threshold in cluster["circuit_breakers"]["thresholds"]:
            threshold["max_requests"] = 2


async def test_calls_and_streams_and_what_needs_no_key_have_places_of_their_own(
    server: EdgeServer, tmp_path: Path, changed: Callable[..., None]
) -> None:
    changed(two_places)
    async with AsyncExitStack() as stack:
        envoy = await stack.enter_async_context(running_envoy(server.port, tmp_path))
        rest = await stack.enter_async_context(http_client(f"127.0.0.1:{envoy.port}"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}"))

        watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watches = [watch(b""), watch(b"")]
        assert [await asyncio.wait_for(each.read(), DEADLINE) for each in watches] == [b"\x08\x01"] * 2
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await asyncio.wait_for(watch(b"").read(), DEADLINE)
        assert full.value.code() is grpc.StatusCode.UNAVAILABLE

        for number in (1, 2):
            stream = rest.stream("GET", f"/api/v1/executions/endless-{number}/stream")
            assert (await stack.enter_async_context(stream)).status_code == 200
        assert (await rest.get("/api/v1/executions/endless-3/stream")).status_code == 503

        waiting = [asyncio.create_task(rest.get("/api/v1/projects/wait")) for _ in range(2)]
        while len(server.requests) < 4:
            await asyncio.wait_for(server.waiting.wait(), DEADLINE)
            server.waiting.clear()
        refused = assert_error(await rest.get("/api/v1/projects/p1"), 503, 14)
        assert refused["details"][0]["reason"] == "SERVER_UNAVAILABLE"
        server.gate.set()
        assert [(await each).status_code for each in waiting] == [200, 200]
        assert (await rest.get("/api/health")).status_code == 200


async def test_requests_that_never_become_whole_do_not_fill_the_memory(
    server: EdgeServer, tmp_path: Path, changed: Callable[..., None]
) -> None:
    def small(config: dict[str, Any]) -> None:
        config["overload_manager"]["resource_monitors"][0]["typed_config"]["max_heap_size_bytes"] = 60 * MIB

    async def unfinished() -> AsyncIterator[bytes]:
        yield b"x" * 2_097_000
        await asyncio.Event().wait()

    async def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            await http2.post("/api/v1/projects", content=unfinished(), headers={"content-type": "application/json"})

    changed(small)
    async with running_envoy(server.port, tmp_path) as envoy, http_client(f"127.0.0.1:{envoy.port}") as rest:
        before = resident(tmp_path)
        url = f"http://127.0.0.1:{envoy.port}"
        async with httpx.AsyncClient(http1=False, http2=True, base_url=url, trust_env=False, timeout=60) as http2:
            # 160 MiB in bodies that are just not too large.
            asking = [asyncio.create_task(ask()) for _ in range(80)]
            try:
                ended, _ = await asyncio.wait(asking, timeout=60, return_when=asyncio.FIRST_COMPLETED)
                assert ended
                for _ in range(100):
                    if (await rest.get("/api/health")).status_code == 200:
                        break
                    await asyncio.sleep(0.1)
                else:
                    raise AssertionError("calls do not go on")
                assert resident(tmp_path) - before < 110 * MIB
            finally:
                for each in asking:
                    each.cancel()
                await asyncio.gather(*asking, return_exceptions=True)


def resident(directory: Path) -> int:
    """Bytes of memory that the Envoy in this directory has."""
    (process,) = (child for child in psutil.Process().children() if child.cwd() == str(directory))
    size: int = process.memory_info().rss
    return size


async def test_a_header_that_cannot_be_read_is_the_fault_of_one_call(envoy: EnvoyProcess, server: EdgeServer) -> None:
    address = f"127.0.0.1:{envoy.port}"
    async with httpx.AsyncClient(http1=False, http2=True, base_url=f"http://{address}", trust_env=False) as http2:
        for name, value in [("grpc-timeout", "zz"), ("grpc-encoding", "zz"), ("x-bin", "!"), ("grpc-status", "zz")] * 3:
            headers = {"content-type": "application/grpc", "te": "trailers", name: value}
            path = "/cloutagent.v1.ProjectService/GetProject"
            answer = await http2.post(path, content=b"\0\0\0\0\0", headers=headers)
            read = name in ("x-bin", "grpc-status")
            assert answer.headers.get("grpc-status") == (None if read else str(grpc.StatusCode.INTERNAL.value[0]))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = project_pb2_grpc.ProjectServiceStub(channel)
        for _ in range(20):
            request = project_pb2.GetProjectRequest(project_id="p1")
            metadata = (("x-bin", b"\0"),)
            found = await stub.GetProject(
                request, timeout=DEADLINE, compression=grpc.Compression.Gzip, metadata=metadata
            )
            assert found.project.id == "p1"


@pytest.mark.parametrize(
    "header", [("grpc-timeout", "zz"), ("grpc-timeout", "1n"), ("x-y-bin", "!!!"), ("grpc-encoding", "z")]
)
async def test_what_has_a_meaning_in_grpc_alone_has_none_in_rest(
    rest: httpx.AsyncClient, header: tuple[str, str]
) -> None:
    answer = await rest.get("/api/v1/projects/p1", headers=dict([header]))
    assert (answer.status_code, answer.json()) == (200, {"project": {"id": "p1"}})


async def test_no_page_comes_in_by_a_name_of_its_own(server: EdgeServer, tmp_path: Path) -> None:
    async with running_envoy(server.port, tmp_path, loopback_only=True) as envoy:
        for host, status in (
            ("127.0.0.1", 200),
            (f"127.0.0.1:{envoy.port}", 200),
            (f"localhost:{envoy.port}", 200),
            (f"[::1]:{envoy.port}", 200),
            (f"evil.example:{envoy.port}", 404),
            ("127.0.0.1.evil.example", 404),
            ("localhost.evil.example", 404),
        ):
            answer = await answer_to(envoy.port, f"GET /api/health HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            assert (answer.status, host) == (status, host)
        async with grpc.aio.insecure_channel(f"localhost:{envoy.port}") as channel:
            stub = project_pb2_grpc.ProjectServiceStub(channel)
            found = await stub.GetProject(project_pb2.GetProjectRequest(project_id="p1"), timeout=DEADLINE)
            assert found.project.id == "p1"
