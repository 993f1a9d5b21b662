"""The JSON form of an agent's configuration and limits, as projects and executions hold them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from cloutagent_server.domain.project import AgentConfig, Limits
from cloutagent_server.storage.filesystem import mcp_records
from cloutagent_server.storage.filesystem.schema import Fields


def agent_to_json(agent: AgentConfig) -> dict[str, Any]:
    """The JSON form of an agent's configuration."""
    return {
        "id": agent.id,
        "name": agent.name,
        "systemPrompt": agent.system_prompt,
        "model": agent.model,
        "temperature": agent.temperature,
        "maxTokens": agent.max_tokens,
        "enabledTools": list(agent.enabled_tools),
        **({"mcpServers": mcp_records.servers_to_json(agent.mcp_servers)} if agent.mcp_servers else {}),
    }


def agent_from_fields(fields: Fields) -> AgentConfig:
    """The configuration that a document holds. Raises ValueError."""
    agent = AgentConfig(
        id=fields.text("id"),
        name=fields.text("name"),
        system_prompt=fields.text("systemPrompt"),
        model=fields.text("model"),
        temperature=fields.number("temperature"),
        max_tokens=fields.whole("maxTokens"),
        enabled_tools=tuple(fields.texts("enabledTools")),
        mcp_servers=fields.optional(lambda name: mcp_records.servers(fields.fields(name)), "mcpServers") or {},
    )
    fields.end()
    return agent


def limits_to_json(limits: Limits) -> dict[str, Any]:
    """The JSON form of the limits of an execution."""
    return {"maxTokens": limits.max_tokens, "maxCost": float(limits.max_cost), "timeout": limits.timeout}


def limits_from_fields(fields: Fields) -> Limits:
    """The limits that a document holds. Raises ValueError."""
    limits = Limits(
        max_tokens=fields.whole("maxTokens"),
        max_cost=Decimal(str(fields.number("maxCost"))),
        timeout=fields.whole("timeout"),
    )
    fields.end()
    return limits
