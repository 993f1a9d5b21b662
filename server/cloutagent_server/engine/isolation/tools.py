"""Which tools of the agent's command line a project may enable, and on what condition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cloutagent_server.domain.mcp import McpServer, StdioServer, server_of

HARMLESS_TOOLS: Final = frozenset({"TodoWrite"})
"""Tools that keep to the agent's own memory: they run no code, touch no file and open no connection."""

ISOLATED_TOOLS: Final = frozenset(
    {"Bash", "Edit", "Glob", "Grep", "Monitor", "NotebookEdit", "Read", "TaskStop", "Write"}
)
"""Tools that run code or touch files: they are for an isolated process alone."""

_REFUSED: Final = {
    "Agent": "subagents are not offered",
    "Skill": "skills are not offered",
    "WebFetch": "an agent has no way to the network but the model's",
    "WebSearch": "the vendor bills searches beside the tokens, and that is not metered",
}


def refusal(name: str, no_isolation: str | None) -> str | None:
    """Why the tool `name` (exact, with its case) may not be enabled; None if it may.

    `no_isolation` says why this machine cannot isolate the agent's process; None if it can.
    """
    if name in HARMLESS_TOOLS or server_of(name) is not None:
        return None
    if name in ISOLATED_TOOLS:
        return None if no_isolation is None else f"this machine cannot isolate the agent's process: {no_isolation}"
    return _REFUSED.get(name, "the agent has no tool of this name")


def refusals(names: Iterable[str], no_isolation: str | None) -> dict[str, str]:
    """Those of `names` that may not be enabled, in order, each with the reason."""
    reasons = {name: refusal(name, no_isolation) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def server_refusals(servers: Mapping[str, McpServer], no_isolation: str | None) -> dict[str, str]:
    """Those of an agent's MCP servers that would run code on a machine that cannot isolate it, each with the reason."""
    if no_isolation is None:
        return {}
    reason = f"it is a program, and this machine cannot isolate the agent's process: {no_isolation}"
    return {name: reason for name, server in servers.items() if isinstance(server, StdioServer)}
