"""What browsers need of Envoy: gRPC-Web, and leave for pages of other origins. The server is a double."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2

from cloutagent.v1 import execution_pb2, project_pb2
from tests.support.edge_server import EdgeServer, running_envoy

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
PAGE = "https://app.example"
LOCAL_PAGE = "http://localhost:5173"
OTHER_PAGE = "https://app.example.evil.test"
GRPC_WEB = "application/grpc-web+proto"
GET_PROJECT = "/cloutagent.v1.ProjectService/GetProject"
WATCH = "/cloutagent.v1.ExecutionService/WatchExecution"
TRAILERS = 0x80


@pytest.fixture
async def server() -> AsyncIterator[EdgeServer]:
    async with EdgeServer().serve() as serving:
        yield serving


@pytest.fixture
async def http(server: EdgeServer, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_envoy(server.port, tmp_path, cors_origins=(PAGE, LOCAL_PAGE)) as envoy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{envoy.port}", timeout=DEADLINE) as client,
    ):
        yield client


def framed(message: Message) -> bytes:
    """A message as gRPC-Web sends it: a flag, the length, the bytes."""
    data = message.SerializeToString()
    return struct.pack(">BI", 0, len(data)) + data


def frames(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Flag and content of each frame."""
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        yield flag, body[5 : 5 + length]
        body = body[5 + length :]


def trailers_of(frame: tuple[int, bytes]) -> dict[str, str]:
    """The trailers in the last frame."""
    assert frame[0] == TRAILERS
    return dict(line.split(":", 1) for line in frame[1].decode().strip().split("\r\n"))


async def call(http: httpx.AsyncClient, path: str, request: Message, **headers: str) -> httpx.Response:
    """A call as a browser makes it."""
    sent = {"content-type": GRPC_WEB, "x-grpc-web": "1", **{key.replace("_", "-"): headers[key] for key in headers}}
    return await http.post(path, content=framed(request), headers=sent)


# gRPC-Web


async def test_a_unary_call(http: httpx.AsyncClient, server: EdgeServer) -> None:
    response = await call(http, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), x_api_key="k")
    assert (response.status_code, response.headers["content-type"]) == (200, GRPC_WEB)
    message, trailers = frames(response.content)
    assert project_pb2.GetProjectResponse.FromString(message[1]).project.id == "p1"
    assert trailers_of(trailers)["grpc-status"] == "0"
    assert server.metadata[0]["x-api-key"] == "k"


async def test_an_error_has_its_status_and_details(http: httpx.AsyncClient) -> None:
    response = await call(http, GET_PROJECT, project_pb2.GetProjectRequest(project_id="missing"))
    assert response.status_code == 200
    told = dict(response.headers) | (trailers_of(next(frames(response.content))) if response.content else {})
    assert (told["grpc-status"], told["grpc-message"]) == ("5", "no such project")
    encoded = told["grpc-status-details-bin"]
    details = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert details.code == 5 and len(details.details) == 1


async def test_a_stream(http: httpx.AsyncClient) -> None:
    response = await call(http, WATCH, execution_pb2.WatchExecutionRequest(execution_id="e1"))
    *messages, trailers = frames(response.content)
    answers = [execution_pb2.WatchExecutionResponse.FromString(data) for flag, data in messages if not flag]
    assert [event.sequence for answer in answers for event in answer.events] == [1, 2, 3]
    assert trailers_of(trailers)["grpc-status"] == "0"
    response = await call(http, WATCH, execution_pb2.WatchExecutionRequest(execution_id="missing"))
    *messages, trailers = frames(response.content)
    assert len(messages) == 3
    assert (trailers_of(trailers)["grpc-status"], "grpc-status-details-bin" in trailers_of(trailers)) == ("5", True)


async def test_the_text_form(http: httpx.AsyncClient) -> None:
    body = base64.b64encode(framed(project_pb2.GetProjectRequest(project_id="p1")))
    kind = "application/grpc-web-text"
    response = await http.post(GET_PROJECT, content=body, headers={"content-type": kind, "accept": kind})
    assert response.headers["content-type"] == "application/grpc-web-text+proto"
    decoded = b"".join(base64.b64decode(part + "=") for part in response.text.split("=") if part)
    assert b"p1" in decoded and b"grpc-status:0" in decoded


async def test_a_call_larger_than_the_limit_of_rest(http: httpx.AsyncClient) -> None:
    request = execution_pb2.ExecuteRequest(project_id="p1", prompt="x" * 3_000_000)
    response = await call(http, "/cloutagent.v1.ExecutionService/Execute", request)
    message = next(frames(response.content))
    assert execution_pb2.ExecutionResult.FromString(message[1]).result == "3000000"


async def test_without_the_server_the_call_is_unavailable(tmp_path: Path) -> None:
    async with (
        running_envoy(1, tmp_path, cors_origins=(PAGE,)) as envoy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{envoy.port}", timeout=DEADLINE) as http,
    ):
        response = await call(http, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), origin=PAGE)
    assert (response.headers["grpc-status"], response.headers["grpc-message"]) == (
        "14",
        "the server cannot be reached now",
    )
    assert response.headers["access-control-allow-origin"] == PAGE


# CORS


def preflight(origin: str, method: str, headers: str) -> dict[str, str]:
    """What a browser asks before a request."""
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}


async def test_a_page_of_an_allowed_origin_may_ask(http: httpx.AsyncClient, server: EdgeServer) -> None:
    for path in ("/api/v1/projects", "/api/v1/projects/p1", GET_PROJECT, "/api/v1/executions/e1/stream"):
        for origin in (PAGE, LOCAL_PAGE):
            response = await http.options(path, headers=preflight(origin, "PATCH", "x-api-key,content-type"))
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["access-control-allow-origin"] == origin
            assert {"PATCH", "PUT", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
            allowed = set(response.headers["access-control-allow-headers"].split(", "))
            assert {"x-api-key", "content-type", "idempotency-key", "last-event-id", "x-grpc-web"} <= allowed
            assert "access-control-allow-credentials" not in response.headers
    assert server.requests == []


async def test_a_page_of_another_origin_may_not(http: httpx.AsyncClient) -> None:
    for origin in (OTHER_PAGE, "http://app.example", "https://app.example:8443", "null"):
        response = await http.options("/api/v1/projects", headers=preflight(origin, "POST", "x-api-key"))
        assert "access-control-allow-origin" not in response.headers
        response = await http.get("/api/v1/projects", headers={"origin": origin})
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (200, False)


async def test_an_allowed_page_may_read_every_answer(http: httpx.AsyncClient) -> None:
    headers = {"origin": PAGE}
    for status, response in (
        (200, await http.get("/api/v1/projects", headers=headers)),
        (201, await http.post("/api/v1/projects", json={"name": "n"}, headers=headers)),
        (204, await http.delete("/api/v1/projects/p1", headers=headers)),
        (404, await http.get("/api/v1/projects/missing", headers=headers)),
        (404, await http.get("/api/v1/nothing", headers=headers)),
        (
            400,
            await http.post("/api/v1/projects", content=b"{", headers={**headers, "content-type": "application/json"}),
        ),
        (400, await http.get("/api/v1/projects/p1?project%5Fid=p2", headers=headers)),
        (405, await http.put("/api/v1/projects", headers=headers)),
        (415, await http.post("/api/v1/projects", content=b"<a/>", headers={**headers, "content-type": "text/xml"})),
        (204, await http.options("/api/v1/projects", headers=headers)),
        (200, await http.head("/api/v1/projects", headers=headers)),
        (200, await call(http, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), origin=PAGE)),
    ):
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == PAGE
        exposed = set(response.headers["access-control-expose-headers"].split(", "))
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id", "retry-after"} <= exposed


async def test_an_allowed_page_may_follow_a_stream(http: httpx.AsyncClient, server: EdgeServer) -> None:
    server.gate.set()
    response = await http.get("/api/v1/executions/e1/stream", headers={"origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    assert response.text.startswith(": open\n\n")


async def test_without_the_setting_no_page_may_ask(server: EdgeServer, tmp_path: Path) -> None:
    async with (
        running_envoy(server.port, tmp_path) as envoy,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{envoy.port}", timeout=DEADLINE) as http,
    ):
        response = await http.options("/api/v1/projects", headers=preflight(PAGE, "GET", "x-api-key"))
        assert "access-control-allow-origin" not in response.headers
        response = await http.get("/api/v1/projects", headers={"origin": PAGE})
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (200, False)
