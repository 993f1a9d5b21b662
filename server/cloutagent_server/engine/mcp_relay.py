"""Carries an agent's requests to its MCP servers over HTTP, and to nothing else.

The agent has no network, so its requests come to the model gateway. They go on to exactly the URL that the project
configured, with the headers that it configured: the agent sees neither the headers nor the way.
"""

from __future__ import annotations

import io
import ipaddress
import re
import socket
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cloutagent_server.domain.mcp import HttpServer

PATH: Final = "/mcp/"
"""Where the gateway has the servers: each by its name behind this."""

_FROM_AGENT: Final = ("accept", "content-type", "last-event-id", "mcp-protocol-version", "mcp-session-id")
_FROM_SERVER: Final = ("content-type", "mcp-session-id", "retry-after")
_METHODS: Final = frozenset({"POST", "GET", "DELETE"})
_CONNECT_SECONDS: Final = 10.0
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)


class McpRelay:
    """Forwards to MCP servers.

    Unless `private` is true these are reached by https at public addresses alone. Link-local addresses and others
    where machines of a cloud tell their credentials are refused in any case.
    """

    def __init__(self, *, private: bool = False) -> None:
        self._private = private
        self._client: aiohttp.ClientSession | None = None

    def refusal(self, url: str) -> str | None:
        """Why a server at `url` is not called, as far as the text tells; None if it is."""
        parts = urlsplit(url)
        try:
            host, _ = parts.hostname, parts.port
        except ValueError:
            return "the url is malformed"
        if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc or parts.fragment:
            return "the url must be http or https, with a host and without a user and a fragment"
        if parts.scheme == "http" and not self._private:
            return "the url must be https (MCP_PRIVATE_ADDRESSES is off)"
        if host == "localhost" and not self._private:
            return "its address is not public (MCP_PRIVATE_ADDRESSES is off)"
        try:
            literal = URL(url).host or host
            if _is_address(literal):
                return self._address_refusal(literal)
            # Resolvers read a name that ends in a number as an IPv4 address in a short or another base's form.
            if _NUMBER.fullmatch(literal.rstrip(".").rpartition(".")[2]):
                return "its host is an address in a form that is not taken"
            return None
        except ValueError:
            return "the url is malformed"

    async def start(self) -> None:
        """Make ready."""
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=_Resolver(self)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    async def stop(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def forward(self, request: web.Request, server: HttpServer, data: bytearray) -> web.StreamResponse:
        """Answer the agent's request, whose body is `data`, with what the server answers, as it comes."""
        assert self._client is not None
        if request.method not in _METHODS:
            return web.Response(status=405)
        if self.refusal(server.url) is not None:
            return web.Response(status=502, text="the MCP server may not be called")
        headers = {name: request.headers[name] for name in _FROM_AGENT if name in request.headers}
        headers |= {**server.headers, "accept-encoding": "identity"}
        try:
            body = io.BytesIO(data) if request.method == "POST" else None
            answer = await self._client.request(
                request.method, URL(server.url), data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, ValueError):
            return web.Response(status=502, text="the MCP server cannot be reached")
        try:
            if 300 <= answer.status < 400:
                return web.Response(status=502, text="the MCP server redirects, which is not followed")
            return await _passed_on(request, answer)
        finally:
            answer.close()

    def _address_refusal(self, address: str) -> str | None:
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address):
            ip = ip.ipv4_mapped or ip.sixtofour or _embedded(ip) or ip
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
            return "its address is none of a server"
        site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
        if (not ip.is_global or site_local) and not self._private:
            return "its address is not public (MCP_PRIVATE_ADDRESSES is off)"
        return None

    def permits(self, address: str) -> bool:
        """Whether a server at this IP address may be called."""
        return self._address_refusal(address) is None


class _Resolver(AbstractResolver):
    """Resolves names to the addresses that may be called; the connection is made to these and to no others."""

    def __init__(self, relay: McpRelay) -> None:
        self._relay = relay
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        permitted = [result for result in found if self._relay.permits(result["host"])]
        if not permitted:
            raise OSError("the name leads to no address that may be called")
        return permitted

    async def close(self) -> None:
        await self._resolver.close()


async def _passed_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = {name: answer.headers[name] for name in _FROM_SERVER if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        while chunk := await answer.content.readany():
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        # What was cut must look cut to the agent, too: the body gets no regular end.
        if request.transport is not None:
            request.transport.close()
    return response


def _embedded(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that NAT64 leads to, or that an IPv4-compatible address stands for; None for others."""
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
