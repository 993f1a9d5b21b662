"""The relay forwards to one configured place, and to none that it must not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cloutagent_server.domain.mcp import HttpServer, McpServer, StdioServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.gateway import GatewaySession, ModelGateway
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.mcp_relay import McpRelay
from cloutagent_server.engine.prices import GenaiPriceList
from tests.support.mcp_servers import http_mcp
from tests.support.messages import RememberingListener

INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}


@asynccontextmanager
async def opened(relay: McpRelay, servers: dict[str, McpServer]) -> AsyncIterator[tuple[GatewaySession, ModelGateway]]:
    gateway = ModelGateway("http://127.0.0.1:9", None, GenaiPriceList(), relay)
    await gateway.start()
    config = AgentConfig("", "agent", "system", "claude-sonnet-4-5", mcp_servers=servers)
    try:
        yield gateway.open(config, OrderedListener(RememberingListener())), gateway
    finally:
        await gateway.stop()


async def call(
    session: GatewaySession, path: str = "/mcp/far", method: str = "POST", **headers: str
) -> tuple[int, str, dict[str, str]]:
    given = {"x-api-key": session.token, "accept": "text/event-stream", **headers}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, session.base_url + path, json=INITIALIZE, headers=given) as answer,
    ):
        return answer.status, await answer.text(), dict(answer.headers)


async def test_a_request_goes_to_its_server_with_the_configured_headers() -> None:
    async with http_mcp() as server:
        servers: dict[str, McpServer] = {"far": HttpServer(server.url, {"Authorization": "Bearer s", "X-Own": "1"})}
        async with opened(McpRelay(private=True), servers) as (session, _):
            own = {"authorization": "Bearer mine", "cookie": "c", "mcp-session-id": "s1", "x-forwarded-for": "1.2.3.4"}
            status, text, headers = await call(session, **own)
    assert status == 200
    assert "serverInfo" in text
    assert headers["mcp-session-id"] == "session-1"
    (seen,) = server.headers
    assert (seen["authorization"], seen["x-own"], seen["mcp-session-id"]) == ("Bearer s", "1", "s1")
    assert not {"x-api-key", "cookie", "x-forwarded-for"} & seen.keys()


async def test_only_the_run_itself_and_only_its_servers() -> None:
    async with http_mcp() as server:
        servers: dict[str, McpServer] = {"far": HttpServer(server.url), "local": StdioServer("x")}
        async with opened(McpRelay(private=True), servers) as (session, gateway):
            for path in ("/mcp/other", "/mcp/local", "/mcp/", "/mcp/far/../../x"):
                assert (await call(session, path))[0] == 404
            assert (await call(session, **{"x-api-key": "wrong"}))[0] == 401
            assert (await call(session, method="PUT"))[0] == 405
            gateway.cut(session)
            assert (await call(session))[0] == 401
    assert server.headers == []


async def test_redirects_are_not_followed() -> None:
    async def away(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": "http://127.0.0.1:9/secret"})

    app = web.Application()
    app.router.add_post("/", away)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with opened(McpRelay(private=True), {"far": HttpServer(f"http://{host}:{port}/")}) as (session, _):
            status, text, headers = await call(session)
            assert (status, text) == (502, "the MCP server redirects, which is not followed")
            assert "location" not in {name.lower() for name in headers}
    finally:
        await runner.cleanup()


NOT_PUBLIC = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://10.0.0.1/",
    "https://192.168.1.1/",
    "https://172.16.0.1/",
    "https://100.64.0.1/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fd00::1]/",
    "https://[2002:7f00:1::]/",
    "https://localhost/",
    "http://tools.example/",
]
NEVER = [
    "https://169.254.169.254/latest/meta-data",
    "https://[fe80::1]/",
    "https://0.0.0.0/",
    "https://[::]/",
    "https://224.0.0.1/",
    "https://user@tools.example/",
    "https://",
    "https://tools.example:x/",
    "ftp://tools.example/",
]


@pytest.mark.parametrize("url", [*NOT_PUBLIC, *NEVER])
async def test_what_is_not_public_is_not_called(url: str) -> None:
    relay = McpRelay()
    async with opened(relay, {"far": HttpServer(url)}) as (session, _):
        assert (await call(session))[0] == 502


@pytest.mark.parametrize("url", NEVER)
def test_some_addresses_are_refused_in_any_case(url: str) -> None:
    assert McpRelay(private=True).refusal(url) is not None


@pytest.mark.parametrize("url", ["https://tools.example/mcp?x=1", "https://1.1.1.1/", "https://[2606:4700::1111]/"])
def test_public_servers_are_called(url: str) -> None:
    assert McpRelay().refusal(url) is None


async def test_a_name_that_leads_to_a_private_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        asked.append(host)
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    async with opened(McpRelay(), {"far": HttpServer("https://tools.example/")}) as (session, _):
        status, text, _headers = await call(session)
    assert (status, text) == (502, "the MCP server cannot be reached")
    assert asked == ["tools.example"]


@pytest.mark.parametrize("address", ["64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "fec0::1", "::7f00:1", "::1"])
def test_a_private_address_is_known_in_every_form(address: str) -> None:
    assert not McpRelay().permits(address)


@pytest.mark.parametrize(
    "address", ["fd00:ec2::254", "100.100.100.200", "168.63.129.16", "64:ff9b::a9fe:a9fe", "64:ff9b::6464:64c8"]
)
def test_metadata_of_a_cloud_is_never_called(address: str) -> None:
    assert not McpRelay(private=True).permits(address)


def test_other_addresses_stay_permitted() -> None:
    assert McpRelay().permits("64:ff9b::808:808")
    assert McpRelay(private=True).permits("::1")
    assert McpRelay(private=True).permits("10.0.0.1")


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "127.1."])
def test_an_address_in_another_form_is_refused(host: str) -> None:
    assert McpRelay().refusal(f"https://{host}/mcp")
    assert McpRelay(private=True).refusal(f"https://{host}/mcp")
