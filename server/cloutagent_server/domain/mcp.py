"""MCP servers of an agent: where its tools beside those of its command line come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_PREFIX: Final = "mcp__"
_SEPARATOR: Final = "__"


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A program that speaks MCP over its standard input and output; it runs beside the agent.

    Attributes:
        command: The program.
        args: Its arguments.
        env: Variables for it, by name. A value may be a template that refers to secrets.
    """

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that speaks MCP over HTTP.

    Attributes:
        url: Where it answers.
        headers: Headers that go with every request, by name. A value may be a template that refers to secrets.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


McpServer = StdioServer | HttpServer


def server_of(tool: str) -> str | None:
    """The name of the server that a tool's name leads to, `mcp__server__tool`; None if it is no such name."""
    if not tool.startswith(_PREFIX):
        return None
    server, _, name = tool.removeprefix(_PREFIX).partition(_SEPARATOR)
    return server if server and name else None


def allowed_tools(servers: Mapping[str, McpServer], enabled: tuple[str, ...]) -> list[str]:
    """What the agent may use of its servers: the tools that are enabled by name; all of a server that none names."""
    named = [tool for tool in enabled if server_of(tool) is not None]
    particular = set(map(server_of, named))
    return named + [f"{_PREFIX}{name}" for name in servers if name not in particular]
