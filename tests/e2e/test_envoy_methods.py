"""Which methods a path of the REST API takes, HEAD and OPTIONS, and what a body has to be. The server is a double."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from google.api import annotations_pb2

from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.transport.server import FILES
from tests.support.edge_server import EdgeServer, assert_error

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
JSON = "application/json"
# None is what a client of gRPC says.
NEARLY_GRPC = ("application/grpc;x", "application/grpcx", "application/grpc-web;x", "application/grpc,application/json")


def paths() -> dict[str, set[str]]:
    """A path for each route of the API, and the methods that it takes besides OPTIONS."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                rule: Any = method.GetOptions().Extensions[annotations_pb2.http]
                if verb := rule.WhichOneof("pattern"):
                    taken = found.setdefault(re.sub(r"{[^}]*}", "x1", getattr(rule, verb)), set())
                    taken |= {verb.upper(), "HEAD"} if verb == "get" and not method.server_streaming else {verb.upper()}
    return found


async def test_every_path_names_the_methods_it_takes(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    known = paths()
    assert len(known) > 20
    for path, taken in known.items():
        allow = ", ".join(sorted({*taken, "OPTIONS"}))
        response = await rest.options(path)
        assert (response.status_code, response.headers["allow"], response.content) == (204, allow, b""), path
        assert not {"content-type", "transfer-encoding"} & set(response.headers)
        for method in {*METHODS, "TRACE"} - taken:
            response = await rest.request(method, f"{path}?page_size=1")
            assert (response.status_code, response.headers.get("allow")) == (405, allow), (method, path)
            assert response.headers["x-request-id"]
            if method == "HEAD":
                assert response.content == b""
            else:
                assert_error(response, 405, 12)
    assert server.requests == []


async def test_what_a_path_takes_is_not_refused(rest: httpx.AsyncClient) -> None:
    # Without a handler for most of them the double says 501: Envoy has passed them on.
    for path, taken in paths().items():
        for method in taken:
            if not path.endswith("/stream"):
                response = await rest.request(method, path.replace("x1", "p1"))
                assert response.status_code in (200, 201, 204, 501), (method, path)


async def test_head_is_get_without_a_body(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    for path in ("/api/health", "/api/v1/projects/p1", "/api/v1/projects?page_size=3", "/api/v1/executions/e1"):
        got = await rest.get(path)
        asked = await rest.head(path, headers={"x-api-key": "k", "x-head": "mine"})
        assert (asked.status_code, asked.content) == (200, b"")
        for name in ("content-type", "content-length"):
            assert asked.headers.get(name) == got.headers.get(name)
        assert set(asked.headers) == set(got.headers)
    first, second, *_ = server.requests[-2:]
    assert first == second
    assert server.metadata[-1]["x-api-key"] == "k"
    assert "x-head" not in server.metadata[-1]


async def test_head_tells_the_status_of_an_error(rest: httpx.AsyncClient) -> None:
    for path, status in (
        ("/api/v1/projects/missing", 404),
        ("/api/v1/projects/code-16", 401),
        ("/api/v1/nothing", 404),
        ("/api/v1/projects?surprise=1", 400),
    ):
        response = await rest.head(path)
        assert (response.status_code, response.content) == (status, b"")
    assert (await rest.get("/api/health")).status_code == 200


async def test_json_is_taken_under_its_names(rest: httpx.AsyncClient) -> None:
    for content_type in (
        JSON,
        "Application/JSON; charset=utf-8",
        "application/merge-patch+json",
        "application/x-www-form-urlencoded",
        "",
    ):
        headers = {"content-type": content_type} if content_type else {}
        response = await rest.post("/api/v1/projects", content=b'{"name": "n"}', headers=headers)
        assert response.status_code == 201, content_type


async def test_a_body_of_another_type_is_415(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    for content_type in (
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=b",
        "application/jsonp",
        "json",
        *NEARLY_GRPC,
    ):
        headers = {"content-type": content_type}
        assert_error(await rest.post("/api/v1/projects", content=b'{"name": "n"}', headers=headers), 415, 3)
        assert_error(await rest.patch("/api/v1/projects/p1", content=b"{}", headers=headers), 415, 3)
        assert server.requests == []
        # Where there is no such path, or no such method, that is what counts.
        assert_error(await rest.post("/api/v1/nothing", content=b"{}", headers=headers), 404, 5)
        assert_error(await rest.put("/api/v1/projects", content=b"{}", headers=headers), 405, 12)
    # What has no body has no type.
    assert (await rest.get("/api/v1/projects", headers={"content-type": "text/plain"})).status_code == 200


async def test_no_name_of_json_lifts_the_limit_of_its_size(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    body = b'{"prompt": "' + b"x" * 2_097_152 + b'"}'
    for content_type in (JSON, "application/grpcx+json", "application/grpc-web+json"):
        headers = {"content-type": content_type}
        assert_error(await rest.post("/api/v1/projects/p1/execute", content=body, headers=headers), 413, 3)
    assert server.requests == []


async def test_no_spelling_of_a_path_passes_by_its_routes(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    headers = {"origin": "https://elsewhere.example", "content-type": "text/plain"}
    for path in (
        "/api/v1/projects/",
        "/api/v1//projects//",
        "/api/v1/x/../projects/",
        "/api/v1/projects/.",
        "/api/v1/projects/%2e",
        "/api/v1/project%73",
        "/api/v1/%70rojects/",
        "/api/v1/projects;x",
        "/api/v1/projects:",
        "/api/v1/projects%3Fx",
        "/api/v1/projects/?page_size=1",
        "/api/v1/projects/p1/execute/",
        "/api/v1/projects/p1/execute/?",
        "/api/v1/projects/p1/execut%65",
        "/api/v1/projects/p1/secrets:encrypt/",
        "/api/v1/projects/p1/secrets%3Aencrypt",
        "/api/v1/projects/p1/secrets/S:restore/",
    ):
        response = await rest.post(path, content=b'{"name": "n"}', headers=headers)
        assert response.status_code in (404, 415), path
        assert server.requests == [], path


@pytest.mark.parametrize(
    "name",
    ["..", "%2e%2e", ".%2E", "x/../..", "", ".", "%2e", "..?x=1", "../?x=1", "..//"],
)
async def test_no_name_of_a_secret_means_its_project(envoy: EnvoyProcess, server: EdgeServer, name: str) -> None:
    for verb in ("DELETE", "GET", "HEAD"):
        request = f"{verb} /api/v1/projects/p1/secrets/{name} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
        writer.write(request.encode())
        assert (await asyncio.wait_for(reader.readline(), DEADLINE)).split()[1] == b"404"
        writer.close()
    assert server.requests == []


async def test_a_page_cannot_create_by_a_form(rest: httpx.AsyncClient, server: EdgeServer) -> None:
    for content_type in ("application/x-www-form-urlencoded", ""):
        headers = {"origin": "https://elsewhere.example", **({"content-type": content_type} if content_type else {})}
        assert_error(await rest.post("/api/v1/projects", content=b'{"name": "n"}', headers=headers), 415, 3)
        # A request with a key has asked before.
        with_key = {**headers, "x-api-key": "k"}
        server.requests.clear()
        assert (await rest.post("/api/v1/projects/p1/execute", content=b"{}", headers=with_key)).status_code == 200
    assert len(server.requests) == 1
