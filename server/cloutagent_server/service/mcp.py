"""Checks the MCP servers of an agent, and fills the secrets into what they are started or called with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.mcp import HttpServer, McpServer, StdioServer, server_of
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import Engine
from cloutagent_server.service.template import Template, parse

# Set by the protocol, the connection or the relay, so that a project must not.
_RESERVED_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "last-event-id",
        "mcp-protocol-version",
        "mcp-session-id",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_MAX_FILLED_CHARACTERS: Final = 64 * 1024


def faults_of(agent: AgentConfig, field: str, engine: Engine) -> list[FieldViolation]:
    """What is wrong with the servers of an agent and with the tools that are enabled of them.

    `field` is where the request has the agent.
    """
    faults = [
        FieldViolation(f"{field}.enabledTools", f"the tool {tool!r} is of no server in mcpServers")
        for tool in agent.enabled_tools
        if (source := server_of(tool)) is not None and source not in agent.mcp_servers
    ]
    faults += (
        FieldViolation(f"{field}.mcpServers.{name}", f"is not available on this server: {reason}")
        for name, reason in engine.refused_servers(agent.mcp_servers).items()
    )
    for name, server in agent.mcp_servers.items():
        if isinstance(server, HttpServer):
            faults += (
                FieldViolation(f"{field}.mcpServers.{name}.headers.{header}", "cannot be set")
                for header in server.headers
                if header.lower() in _RESERVED_HEADERS
            )
    try:
        _templates(agent, field)
    except InvalidRequest as fault:
        faults += fault.violations
    return faults


def secrets_of(agent: AgentConfig, field: str) -> frozenset[str]:
    """The names of the secrets that the servers refer to. Raises InvalidRequest for a reference that is malformed."""
    return frozenset(name for template in _templates(agent, field).values() for name in template.secrets)


def filled(agent: AgentConfig, field: str, secrets: Mapping[str, str]) -> dict[str, McpServer]:
    """The servers with their secrets filled in.

    Raises:
        InvalidRequest: There is no such secret, or its value cannot stand there.
    """
    faults: list[FieldViolation] = []
    texts: dict[str, str] = {}
    for place, template in _templates(agent, field).items():
        missing = sorted(template.secrets - secrets.keys())
        faults += (FieldViolation(place, f"the project has no secret named {name}") for name in missing)
        if not missing:
            text = texts[place] = template.fill({}, secrets)
            if fault := _fault(text, is_header=".headers." in place):
                faults.append(FieldViolation(place, fault))
    if faults:
        raise InvalidRequest(faults)
    servers: dict[str, McpServer] = {}
    for name, server in agent.mcp_servers.items():
        values = {key: texts[place] for place, key, _ in _values(name, server, field)}
        if isinstance(server, StdioServer):
            servers[name] = replace(server, env=values)
        else:
            servers[name] = replace(server, headers=values)
    return servers


def _templates(agent: AgentConfig, field: str) -> dict[str, Template]:
    """The templates of all servers, by the place where each is."""
    faults: list[FieldViolation] = []
    templates = {}
    for name, server in agent.mcp_servers.items():
        for place, _, text in _values(name, server, field):
            try:
                template = templates[place] = parse(text, place)
            except InvalidRequest as fault:
                faults += fault.violations
            else:
                faults += (
                    FieldViolation(place, f"the variable {variable} is not for here; only secrets are filled in")
                    for variable in sorted(template.variables)
                )
    if faults:
        raise InvalidRequest(faults)
    return templates


def _values(name: str, server: McpServer, field: str) -> Iterator[tuple[str, str, str]]:
    kind, values = ("env", server.env) if isinstance(server, StdioServer) else ("headers", server.headers)
    for key, text in values.items():
        yield f"{field}.mcpServers.{name}.{kind}.{key}", key, text


def _fault(text: str, *, is_header: bool) -> str | None:
    if len(text) > _MAX_FILLED_CHARACTERS:
        return f"has more than {_MAX_FILLED_CHARACTERS} characters once it is filled in"
    if "\0" in text or (is_header and _HEADER_VALUE.fullmatch(text) is None):
        return "holds a character that cannot stand here once it is filled in"
    return None
