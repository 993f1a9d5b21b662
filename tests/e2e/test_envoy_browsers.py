"""What browsers need of Envoy: gRPC-Web, and leave for pages of other origins. The server is a double."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2

from cloutagent.v1 import execution_pb2, project_pb2
from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.api.rest import http_client
from tests.support.edge_server import LOCAL_PAGE, PAGE, EdgeServer, running_envoy

pytestmark = pytest.mark.e2e

OTHER_PAGE = "https://app.example.evil.test"
GRPC_WEB = "application/grpc-web+proto"
GET_PROJECT = "/cloutagent.v1.ProjectService/GetProject"
WATCH = "/cloutagent.v1.ExecutionService/WatchExecution"
TRAILERS = 0x80


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


async def call(rest: httpx.AsyncClient, path: str, request: Message, **headers: str) -> httpx.Response:
    """A call as a browser makes it."""
    sent = {"content-type": GRPC_WEB, "x-grpc-web": "1", **{key.replace("_", "-"): headers[key] for key in headers}}
    return await rest.post(path, content=framed(request), headers=sent)


# gRPC-Web


async def test_a_unary_call(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    response = await call(rest, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), x_api_key="k")
    assert (response.status_code, response.headers["content-type"]) == (200, GRPC_WEB)
    message, trailers = frames(response.content)
    assert project_pb2.GetProjectResponse.FromString(message[1]).project.id == "p1"
    assert trailers_of(trailers)["grpc-status"] == "0"
    assert server.metadata[0]["x-api-key"] == "k"


async def test_an_error_has_its_status_and_details(rest: httpx.AsyncClient) -> None:
    response = await call(rest, GET_PROJECT, project_pb2.GetProjectRequest(project_id="missing"))
    assert response.status_code == 200
    told = dict(response.headers) | (trailers_of(next(frames(response.content))) if response.content else {})
    assert (told["grpc-status"], told["grpc-message"]) == ("5", "no such project")
    encoded = told["grpc-status-details-bin"]
    details = status_pb2.Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
    assert details.code == 5 and len(details.details) == 1


async def test_a_stream(rest: httpx.AsyncClient) -> None:
    response = await call(rest, WATCH, execution_pb2.WatchExecutionRequest(execution_id="e1"))
    *messages, trailers = frames(response.content)
    answers = [execution_pb2.WatchExecutionResponse.FromString(data) for flag, data in messages if not flag]
    assert [event.sequence for answer in answers for event in answer.events] == [1, 2, 3]
    assert trailers_of(trailers)["grpc-status"] == "0"
    response = await call(rest, WATCH, execution_pb2.WatchExecutionRequest(execution_id="missing"))
    *messages, trailers = frames(response.content)
    assert len(messages) == 3
    assert (trailers_of(trailers)["grpc-status"], "grpc-status-details-bin" in trailers_of(trailers)) == ("5", True)


async def test_the_text_form(rest: httpx.AsyncClient) -> None:
    body = base64.b64encode(framed(project_pb2.GetProjectRequest(project_id="p1")))
    kind = "application/grpc-web-text"
    response = await rest.post(GET_PROJECT, content=body, headers={"content-type": kind, "accept": kind})
    assert response.headers["content-type"] == "application/grpc-web-text+proto"
    decoded = b"".join(base64.b64decode(part + "=") for part in response.text.split("=") if part)
    assert b"p1" in decoded and b"grpc-status:0" in decoded


async def test_a_call_larger_than_the_limit_of_rest(rest: httpx.AsyncClient) -> None:
    request = execution_pb2.ExecuteRequest(project_id="p1", prompt="x" * 3_000_000)
    response = await call(rest, "/cloutagent.v1.ExecutionService/Execute", request)
    message = next(frames(response.content))
    assert execution_pb2.ExecutionResult.FromString(message[1]).result == "3000000"


async def test_without_the_server_the_call_is_unavailable(cut_off: EnvoyProcess) -> None:
    async with http_client(f"127.0.0.1:{cut_off.port}") as rest:
        response = await call(rest, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), origin=PAGE)
    assert (response.headers["grpc-status"], response.headers["grpc-message"]) == (
        "14",
        "the server cannot be reached now",
    )
    assert response.headers["access-control-allow-origin"] == PAGE


# CORS


def preflight(origin: str, method: str, headers: str) -> dict[str, str]:
    """What a browser asks before a request."""
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}


async def test_a_page_of_an_allowed_origin_may_ask(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    for path in ("/api/v1/projects", "/api/v1/projects/p1", GET_PROJECT, "/api/v1/executions/e1/stream"):
        for origin in (PAGE, LOCAL_PAGE):
            response = await rest.options(path, headers=preflight(origin, "PATCH", "x-api-key,content-type"))
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["access-control-allow-origin"] == origin
            assert {"PATCH", "PUT", "DELETE"} <= set(response.headers["access-control-allow-methods"].split(", "))
            allowed = set(response.headers["access-control-allow-headers"].split(", "))
            assert {"x-api-key", "content-type", "idempotency-key", "last-event-id", "x-grpc-web"} <= allowed
            assert "access-control-allow-credentials" not in response.headers
            assert response.headers["vary"] == "origin"
    assert server.requests == []


async def test_a_page_of_another_origin_may_not(rest: httpx.AsyncClient) -> None:
    for origin in (OTHER_PAGE, "http://app.example", "https://app.example:8443", "null"):
        response = await rest.options("/api/v1/projects", headers=preflight(origin, "POST", "x-api-key"))
        assert ("access-control-allow-origin" in response.headers, response.headers["vary"]) == (False, "origin")
        response = await rest.get("/api/v1/projects", headers={"origin": origin})
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (200, False)
        # A cache that keeps this answer must not give it to the pages that may read theirs.
        assert response.headers["vary"] == "origin"
    assert (await rest.get("/api/v1/projects")).headers["vary"] == "origin"


async def test_an_allowed_page_may_read_every_answer(rest: httpx.AsyncClient) -> None:
    headers = {"origin": PAGE}
    for status, response in (
        (200, await rest.get("/api/v1/projects", headers=headers)),
        (201, await rest.post("/api/v1/projects", json={"name": "n"}, headers=headers)),
        (204, await rest.delete("/api/v1/projects/p1", headers=headers)),
        (404, await rest.get("/api/v1/projects/missing", headers=headers)),
        (404, await rest.get("/api/v1/nothing", headers=headers)),
        (
            400,
            await rest.post("/api/v1/projects", content=b"{", headers={**headers, "content-type": "application/json"}),
        ),
        (400, await rest.get("/api/v1/projects/p1?project%5Fid=p2", headers=headers)),
        (405, await rest.put("/api/v1/projects", headers=headers)),
        (415, await rest.post("/api/v1/projects", content=b"<a/>", headers={**headers, "content-type": "text/xml"})),
        (204, await rest.options("/api/v1/projects", headers=headers)),
        (200, await rest.head("/api/v1/projects", headers=headers)),
        (200, await call(rest, GET_PROJECT, project_pb2.GetProjectRequest(project_id="p1"), origin=PAGE)),
    ):
        assert response.status_code == status
        assert (response.headers["access-control-allow-origin"], response.headers["vary"]) == (PAGE, "origin")
        exposed = set(response.headers["access-control-expose-headers"].split(", "))
        assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id", "retry-after"} <= exposed


async def test_an_allowed_page_may_follow_a_stream(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    server.gate.set()
    response = await rest.get("/api/v1/executions/e1/stream", headers={"origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    assert response.text.startswith(": open\n\n")


async def test_without_the_setting_no_page_may_ask(server: EdgeServer, tmp_path: Path) -> None:
    async with (
        running_envoy(server.port, tmp_path) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
    ):
        response = await rest.options("/api/v1/projects", headers=preflight(PAGE, "GET", "x-api-key"))
        assert "access-control-allow-origin" not in response.headers
        response = await rest.get("/api/v1/projects", headers={"origin": PAGE})
        assert (response.status_code, "access-control-allow-origin" in response.headers) == (200, False)
