"""The local rate limit of REST requests that change something. The server is a double."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import httpx
import pytest

from cloutagent.v1 import project_pb2, project_pb2_grpc
from cloutagent_server.settings import Settings
from tests.support.api.rest import http_client
from tests.support.edge_server import EdgeServer, assert_error, running_envoy

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
PROJECTS = "/api/v1/projects"
BODY = {"name": "n"}


def key(value: str) -> dict[str, str]:
    return {"x-api-key": value}


async def write(rest: httpx.AsyncClient, headers: dict[str, str]) -> httpx.Response:
    """One request that is limited."""
    return await rest.post(PROJECTS, json=BODY, headers=headers)


async def accepted(rest: httpx.AsyncClient, headers: dict[str, str], at_most: int) -> int:
    """How many writes pass before one is limited, out of `at_most`."""
    for count in range(at_most):
        response = await write(rest, headers)
        if response.status_code == 429:
            return count
        assert response.status_code == 201
    return at_most


async def test_by_default_a_key_may_write_100_times_a_minute_and_goes_on_after_retry_after(
    server: EdgeServer, tmp_path: Path
) -> None:
    limit = Settings.model_fields["rate_limit_writes_per_minute"].default
    assert limit == 100
    async with (
        running_envoy(server.port, tmp_path, writes_per_minute=limit) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
    ):
        began = time.monotonic()
        allowed = await accepted(rest, key("k"), at_most=200)
        assert 100 <= allowed <= 101 + (time.monotonic() - began) * limit / 60
        assert len(server.requests) == allowed

        # Retry-After keeps its word: what is asked after that time passes.
        while (answer := await write(rest, key("k"))).status_code != 429:
            pass
        passes_from = time.monotonic() + int(answer.headers["retry-after"])
        while answer.status_code == 429:
            await asyncio.sleep(0.05)
            asked = time.monotonic()
            answer = await write(rest, key("k"))
            assert answer.status_code == 201 or asked < passes_from


async def test_what_is_limited_and_what_is_not(server: EdgeServer, tmp_path: Path) -> None:
    async with (
        running_envoy(server.port, tmp_path, writes_per_minute=4) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
    ):
        # Each method that changes something counts.
        for response in (
            await write(rest, key("one")),
            await rest.patch(f"{PROJECTS}/p1", json=BODY, headers=key("one")),
            await rest.delete(f"{PROJECTS}/p1", headers=key("one")),
            await rest.put(f"{PROJECTS}/p1/secrets/S", json={"value": "v"}, headers=key("one")),
        ):
            assert response.status_code != 429
        limited = await write(rest, key("one"))
        error = assert_error(limited, 429, 8, "RATE_LIMITED")
        assert error["details"][2]["retryDelay"] == f"{limited.headers['retry-after']}s"
        assert limited.headers["retry-after"] == "15"
        error = limited.json()
        assert (error["code"], error["details"][0]["reason"]) == (8, "RATE_LIMITED")
        assert "one" not in error["message"].split()

        # Other keys, and callers without one by their address, have buckets of their own.
        assert await accepted(rest, key("two"), at_most=5) == 4
        assert await accepted(rest, {}, at_most=5) == 4
        assert await accepted(rest, key(""), at_most=5) == 4

        # Reads, health and native gRPC calls pass.
        for path in (PROJECTS, f"{PROJECTS}/p1", "/api/health"):
            for headers in (key("one"), {}):
                assert (await rest.get(path, headers=headers)).status_code == 200
        async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
            projects = project_pb2_grpc.ProjectServiceStub(channel)
            request = project_pb2.CreateProjectRequest(name="n")
            for _ in range(6):
                await projects.CreateProject(request, metadata=(("x-api-key", "one"),), timeout=DEADLINE)


async def test_no_content_type_evades_the_limit(server: EdgeServer, tmp_path: Path) -> None:
    async with (
        running_envoy(server.port, tmp_path, writes_per_minute=2) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
    ):
        for kind in (
            "application/grpc;x",
            "application/grpcx",
            "application/grpcx+json",
            "application/grpc-web;x",
            "application/grpc-web+json",
            "application/grpc+json",
            "Application/GRPC",
        ):
            server.forget()
            headers = {"content-type": kind, **key(kind)}
            for _ in range(2):
                await rest.post(PROJECTS, json=BODY, headers=headers)
                await rest.delete(f"{PROJECTS}/p1", headers=headers)
            assert len(server.requests) <= 2, kind


async def test_the_keys_that_are_counted_are_shown_nowhere(
    server: EdgeServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "cla_a-key-that-nobody-else-has"
    async with (
        running_envoy(server.port, tmp_path, writes_per_minute=1) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
        httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "envoy-admin.sock"))) as admin,
    ):
        assert await accepted(rest, key(secret), at_most=3) == 1
        shown = [(await admin.get(f"http://envoy/{page}")).text for page in ("stats", "config_dump", "clusters")]
    assert "http_local_rate_limit" in shown[0]
    assert secret not in "".join((*shown, *capfd.readouterr()))


async def test_many_writes_pass_without_a_limit(rest: httpx.AsyncClient) -> None:
    assert await accepted(rest, key("k"), at_most=150) == 150
