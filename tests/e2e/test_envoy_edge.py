"""What Envoy does at the edge: REST from gRPC, errors, streams, limits. The server is a double."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloutagent.v1 import execution_pb2, project_pb2
from cloutagent_server.envoy_config import EnvoyAddresses, rendered_config
from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.api.rest import http_client
from tests.support.edge_server import EdgeServer, assert_error, running_envoy
from tests.support.raw_http import answer_to

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
SHORT = "0.5s"
TOO_LARGE = "the request's headers are larger than 60 KiB, or more than 100"
NOT_HTTP = "the request is not valid HTTP"
NO_UPGRADE = "the API speaks no other protocol"


# REST answers


async def test_creation_answers_201(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/api/v1/projects", json={"name": "n"})
    assert response.status_code == 201
    assert response.json() == {"project": {"id": "p1", "name": "n"}, "apiKey": "k"}
    assert "x-http-code" not in response.headers


async def test_deletion_answers_204_without_a_body_and_keeps_the_connection(rest: httpx.AsyncClient) -> None:
    for _ in range(2):
        response = await rest.delete("/api/v1/projects/p1")
        assert (response.status_code, response.content) == (204, b"")
        assert not {"x-http-code", "content-type", "content-length"} & set(response.headers)
    assert (await rest.get("/api/health")).status_code == 200


async def test_a_fault_after_the_initial_metadata_keeps_its_own_status(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/api/v1/projects", json={"name": "taken"})
    assert assert_error(response, 409, 6)["message"] == "the name is taken"
    assert "x-http-code" not in response.headers


async def test_no_other_status_can_be_asked_for(rest: httpx.AsyncClient) -> None:
    response = await rest.post("/api/v1/projects", json={"name": "odd"})
    assert response.status_code == 200
    assert "x-http-code" not in response.headers


async def test_default_values_are_printed(rest: httpx.AsyncClient) -> None:
    assert (await rest.get("/api/v1/projects")).json() == {"projects": []}


async def test_an_answer_may_be_larger_than_the_buffers(rest: httpx.AsyncClient) -> None:
    response = await rest.get("/api/v1/executions/e1")
    assert len(response.json()["execution"]["prompt"]) == 1_048_576


async def test_patch_maps_the_body_to_the_project(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    response = await rest.patch("/api/v1/projects/p1?updateMask=name,agent.temperature", json={"name": "new"})
    assert response.status_code == 200
    assert response.json()["project"] == {"id": "p1", "name": "new"}
    (request,) = server.requests
    assert isinstance(request, project_pb2.UpdateProjectRequest)
    assert list(request.update_mask.paths) == ["name", "agent.temperature"]


async def test_the_request_id_is_kept_and_returned(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    response = await rest.get("/api/v1/projects", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == server.metadata[0]["x-request-id"] == "mine-1"
    made = (await rest.get("/api/v1/projects")).headers["x-request-id"]
    assert made == server.metadata[1]["x-request-id"] != "mine-1"
    assert (await rest.get("/nowhere", headers={"x-request-id": "mine-2"})).headers["x-request-id"] == "mine-2"


async def test_claims_about_the_caller_do_not_reach_the_server(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    claims = {
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-host": "elsewhere",
        "x-forwarded-proto": "https",
        "forwarded": "for=203.0.113.9",
        "x-real-ip": "203.0.113.9",
        "x-http-code": "201",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-external-address": "203.0.113.9",
        "x-envoy-original-path": "/api/v1/me",
    }
    assert (await rest.get("/api/v1/projects", headers=claims)).status_code == 200
    (metadata,) = server.metadata
    assert metadata["x-forwarded-for"] == "127.0.0.1"
    assert metadata["x-forwarded-proto"] == "http"
    assert metadata["x-envoy-original-path"] == "/api/v1/projects"
    absent = ("forwarded", "x-real-ip", "x-http-code", "x-envoy-upstream-rq-timeout-ms", "x-forwarded-host")
    assert not set(absent) & set(metadata)


# Errors


@pytest.mark.parametrize(
    ("code", "status"),
    list(enumerate([499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401], start=1)),
)
async def test_each_code_has_its_status(rest: httpx.AsyncClient, code: int, status: int) -> None:
    response = await rest.get(f"/api/v1/projects/code-{code}")
    assert assert_error(response, status, code) == {"code": code, "message": "as asked", "details": []}


async def test_errors_carry_their_details(rest: httpx.AsyncClient) -> None:
    assert assert_error(await rest.get("/api/v1/projects/missing"), 404, 5)["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "PROJECT_NOT_FOUND",
            "domain": "cloutagent",
            "metadata": {"project_id": "missing"},
        }
    ]
    (detail,) = assert_error(await rest.get("/api/v1/projects/faulty"), 400, 3)["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert detail["fieldViolations"][0]["field"] == "agent.model"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1/nothing"),
        ("PUT", "/api/v1/projects/p1/nothing"),
        ("OPTIONS", "/api/v1/nothing"),
        ("POST", "/cloutagent.v1.ProjectService/GetProject"),
    ],
)
async def test_an_unknown_route_is_404(rest: httpx.AsyncClient, server: EdgeServer, method: str, path: str) -> None:
    assert_error(await rest.request(method, path), 404, 5, "INVALID_REQUEST")
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/projects", b'{"name":'),
        ("/api/v1/projects", b'{"name": 1.5, "agent": []}'),
        ("/api/v1/projects?surprise=1", b"{}"),
        ("/api/v1/projects/p1%2Fsecrets/execute", b"{}"),
        ("/api/v1/projects/..%2F..%2Fme/execute", b"{}"),
        ("/api/v1/projects/p1%5Cp2/execute", b"{}"),
    ],
)
async def test_a_faulty_request_is_400(rest: httpx.AsyncClient, server: EdgeServer, path: str, body: bytes) -> None:
    error = assert_error(await rest.post(path, content=body), 400, 3)
    assert error["details"][0]["reason"] == "INVALID_REQUEST"
    assert server.requests == []


async def test_a_body_above_2_mib_is_413(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    url = "/api/v1/projects/p1/execute"
    response = await rest.post(url, json={"prompt": "x" * 1_048_576})
    assert response.json()["result"] == "1048576"
    server.requests.clear()
    assert_error(await rest.post(url, json={"prompt": "x" * 2_097_152}), 413, 3)
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "message", "request_"),
    [
        (426, "Upgrade Required", b"GET /api/health HTTP/1.0\r\n\r\n"),
        (431, TOO_LARGE, b"GET /api/health HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
        (431, TOO_LARGE, b"GET /api/health HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 100 + b"\r\n"),
        (400, NOT_HTTP, b"GET /api/health HTTP/1.1\r\nhost: a\r\nbad header: 1\r\n\r\n"),
        (400, NOT_HTTP, b"GET /api/health HTTP/1.1\r\n\r\n"),
        (400, NOT_HTTP, b"GET /api/\xff HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, NOT_HTTP, b"QUERY /api/health HTTP/1.1\r\nhost: a\r\n\r\n"),
        (
            400,
            NOT_HTTP,
            b"POST /api/v1/projects HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        ),
        (501, NOT_HTTP, b"POST /api/v1/projects HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n{}"),
        (400, "the path is not valid", b"GET /api/health#part HTTP/1.1\r\nhost: a\r\n\r\n"),
        (400, NO_UPGRADE, b"GET /api/health HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        (400, NO_UPGRADE, b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n"),
    ],
)
async def test_faults_of_the_protocol_are_json(
    envoy: EnvoyProcess, server: EdgeServer, status: int, message: str, request_: bytes
) -> None:
    answer = await answer_to(envoy.port, request_)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert (answer.document["code"], answer.document["message"]) == (3, message)
    info, request = answer.document["details"]
    assert (info["reason"], request["@type"]) == ("INVALID_REQUEST", "type.googleapis.com/google.rpc.RequestInfo")
    assert (request["requestId"] or None) == answer.headers.get("x-request-id")
    assert server.requests == []


@pytest.mark.parametrize(
    "headers", [{f"x-{number}": "y" * 10_000 for number in range(7)}, {f"x-{n}": "y" for n in range(101)}]
)
async def test_over_http2_headers_that_are_too_large_reset_the_stream_alone(
    envoy: EnvoyProcess, server: EdgeServer, headers: dict[str, str]
) -> None:
    base_url = f"http://127.0.0.1:{envoy.port}"
    async with (
        httpx.AsyncClient(base_url=base_url, http1=False, http2=True, trust_env=False, timeout=DEADLINE) as client,
        client.stream("GET", "/api/v1/executions/e1/stream") as stream,
    ):
        chunks = stream.aiter_raw()
        assert await anext(chunks) == b": open\n\n"
        with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
            await client.get("/api/health", headers=headers)
        # The other streams of the connection go on.
        server.gate.set()
        assert b"".join([chunk async for chunk in chunks]).endswith(b"data: {}\n\n")


@pytest.mark.parametrize("path", ["/api/health", "/api/v1/executions/e1/stream", "/api/v1/projects/p1/usage/stream"])
async def test_without_the_server_it_is_503(cut_off: EnvoyProcess, path: str) -> None:
    async with http_client(f"127.0.0.1:{cut_off.port}") as rest:
        response = await rest.get(path, headers={"accept": "text/event-stream"})
    error = assert_error(response, 503, 14, "SERVER_UNAVAILABLE")
    assert error["details"][0]["reason"] == "SERVER_UNAVAILABLE"
    assert response.headers["retry-after"] == "1"


async def test_the_query_does_not_override_the_path(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    for query in ("project_id=p2", "projectId=p2", "id=p2", "name=p2"):
        assert (await rest.get(f"/api/v1/projects/p1?{query}")).status_code == 200
    for query in ("project%5Fid=p2", "a=b&project%49d=p2"):
        assert_error(await rest.get(f"/api/v1/projects/p1?{query}"), 400, 3)
    await rest.post("/api/v1/projects/p1/execute?project_id=p2&prompt=other", json={"prompt": "body"})
    await rest.patch("/api/v1/projects/p1?project.id=p2", json={"name": "new"})
    assert server.requests == [
        *[project_pb2.GetProjectRequest(project_id="p1")] * 4,
        execution_pb2.ExecuteRequest(project_id="p1", prompt="body"),
        project_pb2.UpdateProjectRequest(project=project_pb2.Project(id="p1", name="new")),
    ]


async def test_a_query_value_may_be_escaped(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    await rest.get("/api/v1/projects?page_size=5&page_token=a%3D%26%25")
    assert server.requests == [project_pb2.ListProjectsRequest(page_size=5, page_token="a=&%")]


async def test_the_body_does_not_override_the_path(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    assert_error(await rest.patch("/api/v1/projects/p1", json={"id": "p2", "name": "new"}), 400, 3)
    assert_error(await rest.post("/api/v1/projects/p1/execute", json={"project_id": "p2", "prompt": "x"}), 400, 3)
    assert server.requests == []
    await rest.post("/api/v1/projects/p1/execute", json={"projectId": "p2", "prompt": "x"})
    await rest.post("/api/v1/projects/p1/execute", json={"prompt": "x", "projectId": "p2"})
    assert server.requests == [execution_pb2.ExecuteRequest(project_id="p1", prompt="x")] * 2
    assert (await rest.patch("/api/v1/projects/p1", json={"id": "p1", "name": "new"})).status_code == 200


# Streams


async def test_each_message_of_a_stream_is_flushed(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    async with rest.stream("GET", "/api/v1/executions/e1/stream", headers={"last-event-id": "7"}) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        chunks = response.aiter_raw()
        assert await anext(chunks) == b": open\n\n"
        assert not server.gate.is_set()
        server.gate.set()
        assert b"".join([chunk async for chunk in chunks]) == b"id: 1\nevent: queued\ndata: {}\n\n"
    assert server.metadata[0]["last-event-id"] == "7"


async def test_a_stream_that_fails_at_once_has_the_status_of_its_error(rest: httpx.AsyncClient) -> None:
    assert_error(await rest.get("/api/v1/executions/missing/stream"), 404, 5)


async def test_a_call_has_the_limits_of_its_method(
    server: EdgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(addresses: EnvoyAddresses) -> dict[str, Any]:
        config = rendered_config(addresses)
        (filter_,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
        manager = filter_["typed_config"]
        manager |= {"request_timeout": SHORT, "stream_idle_timeout": SHORT}
        manager["common_http_protocol_options"] |= {"idle_timeout": SHORT}
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            if route["name"] in ("rest", "api_reads", "api_calls"):
                route["route"] |= {"timeout": SHORT, "idle_timeout": SHORT}
        return config

    monkeypatch.setattr("cloutagent_server.envoy_process.rendered_config", impatient)
    async with running_envoy(server.port, tmp_path) as envoy:
        async with (
            http_client(f"127.0.0.1:{envoy.port}") as rest,
            grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel,
            asyncio.TaskGroup() as tasks,
        ):
            execute = tasks.create_task(rest.post("/api/v1/projects/p1/execute", json={"prompt": "wait"}))
            stream = tasks.create_task(rest.get("/api/v1/executions/e1/stream"))
            native: Any = channel
            checks: Any = health_pb2_grpc.HealthStub(native)
            mirrors: Any = reflection_pb2_grpc.ServerReflectionStub(native)
            health, reflection = checks.Watch(health_pb2.HealthCheckRequest()), mirrors.ServerReflectionInfo()
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert await names_of_services(reflection)
            # These wait out their limit; what started before them has none, and is still there.
            unfinished = b"POST /api/v1/projects HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n{"
            answer = await answer_to(envoy.port, unfinished)
            assert (answer.status, answer.document["code"]) == (408, 4)
            assert_error(await rest.get("/api/v1/projects/wait"), 504, 4, "SERVER_UNAVAILABLE")
            server.gate.set()
            # Whatever had ended the other stream of this connection would have arrived before this answer.
            assert await names_of_services(reflection)
            assert not health.done()
        assert execute.result().json()["result"] == "4"
        assert stream.result().text.endswith("data: {}\n\n")


async def names_of_services(reflection: Any) -> list[str]:
    """What an open call of server reflection tells when it is asked."""
    async with asyncio.timeout(DEADLINE):
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await reflection.read()
    return [service.name for service in answer.list_services_response.service]


async def test_readers_that_stall_stop_nobody_else(
    envoy: EnvoyProcess, rest: httpx.AsyncClient, server: EdgeServer
) -> None:
    writers = []
    try:
        for number in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port, limit=1024)
            writers.append(writer)
            writer.write(f"GET /api/v1/executions/endless-{number}/stream HTTP/1.1\r\nhost: a\r\n\r\n".encode())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
        async with asyncio.timeout(30):
            produced = -1
            while produced != server.chunks.total():
                produced = server.chunks.total()
                for _ in range(20):
                    assert (await rest.get("/api/health")).status_code == 200
        assert len(server.chunks) == 40
    finally:
        for writer in writers:
            writer.transport.abort()


# The log


async def test_the_access_log_tells_the_callers_method_and_holds_no_key_no_query_and_no_body(
    server: EdgeServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with (
        running_envoy(server.port, tmp_path) as envoy,
        http_client(f"127.0.0.1:{envoy.port}") as rest,
    ):
        headers = {"x-api-key": "cla_hidden", "authorization": "Bearer hidden", "x-request-id": "r1"}
        await rest.patch("/api/v1/projects/p1?updateMask=hidden", json={"name": "hidden"}, headers=headers)
        await rest.post("/api/v1/projects?hidden=hidden", content=b'{"name": "hidden', headers=headers)
        await rest.post("/api/v1/projects", content=b'{"name": "hidden', headers=headers)
        for path in ("/api/v1/projects/p1?name=hidden", "/api/v1/nothing", "/api/docs"):
            await rest.head(path, headers=headers)
    logged = capfd.readouterr()
    lines = [json.loads(line) for line in logged.out.splitlines()]
    assert [(line["method"], line["path"], line["status"], line["request_id"]) for line in lines] == [
        ("PATCH", "/api/v1/projects/p1", 200, "r1"),
        ("POST", "/api/v1/projects", 400, "r1"),
        ("POST", "/api/v1/projects", 400, "r1"),
        ("HEAD", "/api/v1/projects/p1", 200, "r1"),
        ("HEAD", "/api/v1/nothing", 404, "r1"),
        ("HEAD", "/api/docs", 200, "r1"),
    ]
    assert "hidden" not in logged.out + logged.err
