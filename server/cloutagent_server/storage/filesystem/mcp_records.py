"""The stored form of an agent's MCP servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloutagent_server.domain.mcp import HttpServer, McpServer, StdioServer
from cloutagent_server.storage.filesystem.schema import Fields


def servers_to_json(servers: Mapping[str, McpServer]) -> dict[str, Any]:
    """What is stored of the servers, by name."""
    return {name: _server_to_json(server) for name, server in servers.items()}


def servers(fields: Fields) -> dict[str, McpServer]:
    """The servers as they were stored. Raises ValueError for what does not fit."""
    return {name: _server(fields.fields(name)) for name in fields.names()}


def _server_to_json(server: McpServer) -> dict[str, Any]:
    if isinstance(server, StdioServer):
        return {"command": server.command, "args": list(server.args), "env": dict(server.env)}
    return {"url": server.url, "headers": dict(server.headers)}


def _server(fields: Fields) -> McpServer:
    server: McpServer
    if fields.has("url"):
        server = HttpServer(fields.text("url"), fields.text_map("headers"))
    else:
        server = StdioServer(fields.text("command"), tuple(fields.texts("args")), fields.text_map("env"))
    fields.end()
    return server
