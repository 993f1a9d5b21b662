"""Projects between protobuf and domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1 import project_pb2
from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.mcp import HttpServer, McpServer, StdioServer
from cloutagent_server.domain.project import (
    DEFAULT_MAX_COST,
    DEFAULT_MAX_TOKENS,
    DEFAULT_RESPONSE_TOKENS,
    DEFAULT_TEMPERATURE,
    DEFAULT_TIMEOUT,
    AgentConfig,
    Budget,
    BudgetLimit,
    Limits,
    Project,
    ProjectChanges,
    ProjectDraft,
)
from cloutagent_server.transport.validation import camel


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field that an update may set. Without a default it cannot be reset."""

    default: object = None
    required: bool = False


_LEAVES: Final[Mapping[str, _Leaf]] = {
    "name": _Leaf(required=True),
    "description": _Leaf(),
    "agent.name": _Leaf(required=True),
    "agent.system_prompt": _Leaf(required=True),
    "agent.model": _Leaf(required=True),
    "agent.temperature": _Leaf(DEFAULT_TEMPERATURE),
    "agent.max_tokens": _Leaf(DEFAULT_RESPONSE_TOKENS),
    "agent.enabled_tools": _Leaf(()),
    "agent.mcp_servers": _Leaf({}),
    "limits.max_tokens": _Leaf(DEFAULT_MAX_TOKENS),
    "limits.max_cost": _Leaf(DEFAULT_MAX_COST),
    "limits.timeout": _Leaf(DEFAULT_TIMEOUT),
    "budget.daily.max_tokens": _Leaf(),
    "budget.daily.max_cost": _Leaf(),
    "budget.monthly.max_tokens": _Leaf(),
    "budget.monthly.max_cost": _Leaf(),
    "budget.total.max_tokens": _Leaf(),
    "budget.total.max_cost": _Leaf(),
}


def timestamp(time: datetime) -> Timestamp:
    """The protobuf form of a time."""
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def to_proto(project: Project) -> project_pb2.Project:
    """The protobuf form of a project."""
    return project_pb2.Project(
        id=project.id,
        name=project.name,
        description=project.description,
        agent=agent_to_proto(project.agent),
        limits=limits_to_proto(project.limits),
        budget=budget_to_proto(project.budget),
        created_at=timestamp(project.created_at),
        updated_at=timestamp(project.updated_at),
    )


def to_summary(project: Project) -> project_pb2.ProjectSummary:
    """A project as it stands in a list."""
    return project_pb2.ProjectSummary(
        id=project.id,
        name=project.name,
        description=project.description,
        created_at=timestamp(project.created_at),
        updated_at=timestamp(project.updated_at),
    )


def agent_to_proto(agent: AgentConfig) -> project_pb2.AgentConfig:
    """The protobuf form of an agent's configuration."""
    return project_pb2.AgentConfig(
        id=agent.id,
        name=agent.name,
        system_prompt=agent.system_prompt,
        model=agent.model,
        temperature=agent.temperature,
        max_tokens=agent.max_tokens,
        enabled_tools=agent.enabled_tools,
        mcp_servers={name: _server_to_proto(server) for name, server in agent.mcp_servers.items()},
    )


def _server_to_proto(server: McpServer) -> project_pb2.McpServer:
    if isinstance(server, StdioServer):
        return project_pb2.McpServer(type="stdio", command=server.command, args=server.args, env=server.env)
    return project_pb2.McpServer(type="http", url=server.url, headers=server.headers)


def _server(message: project_pb2.McpServer) -> McpServer:
    if message.HasField("url"):
        return HttpServer(message.url, dict(message.headers))
    return StdioServer(message.command, tuple(message.args), dict(message.env))


def limits_to_proto(limits: Limits) -> project_pb2.Limits:
    """The protobuf form of limits."""
    return project_pb2.Limits(max_tokens=limits.max_tokens, max_cost=float(limits.max_cost), timeout=limits.timeout)


def budget_to_proto(budget: Budget) -> project_pb2.Budget | None:
    """The protobuf form of a budget; None if nothing is limited."""
    if budget == Budget():
        return None
    return project_pb2.Budget(
        daily=_budget_limit(budget.daily), monthly=_budget_limit(budget.monthly), total=_budget_limit(budget.total)
    )


def _budget_limit(limit: BudgetLimit) -> project_pb2.BudgetLimit | None:
    if limit == BudgetLimit():
        return None
    return project_pb2.BudgetLimit(
        max_tokens=limit.max_tokens, max_cost=None if limit.max_cost is None else float(limit.max_cost)
    )


def draft_from_proto(request: project_pb2.CreateProjectRequest) -> ProjectDraft:
    """What a request for a new project asks for, with defaults for what it leaves out."""
    values = {path: _value(request, path) for path in _LEAVES if path.startswith(("agent.", "limits.", "budget."))}
    return ProjectDraft(
        name=request.name,
        description=request.description if request.HasField("description") else None,
        agent=AgentConfig(id="", **_section(values, "agent")),
        limits=Limits(**_section(values, "limits")),
        budget=_budget(Budget(), values),
    )


def changes_from_proto(request: project_pb2.UpdateProjectRequest, project: Project) -> ProjectChanges:
    """What an update sets on `project`: the fields that its mask names, or without a mask those that are present.

    Raises:
        InvalidRequest: The mask names something that is no field or cannot be changed, or resets a required field.
    """
    paths = _masked(request) if request.HasField("update_mask") else _present(request.project)
    values = {path: _value(request.project, path) for path in paths}
    faults = [
        FieldViolation(f"project.{_camel_path(path)}", "is required and cannot be reset")
        for path, value in values.items()
        if value is None and _LEAVES[path].required
    ]
    if faults:
        raise InvalidRequest(faults)
    changes: dict[str, Any] = {path: values[path] for path in ("name", "description") if path in values}
    agent, limits = _section(values, "agent"), _section(values, "limits")
    if agent:
        changes["agent"] = replace(project.agent, **agent)
    if limits:
        changes["limits"] = replace(project.limits, **limits)
    budget = _budget(project.budget, values)
    if budget != project.budget:
        changes["budget"] = budget
    return ProjectChanges(**changes)


def _budget(budget: Budget, values: Mapping[str, Any]) -> Budget:
    """`budget` with the values of its fields set."""
    return Budget(
        replace(budget.daily, **_section(values, "budget.daily")),
        replace(budget.monthly, **_section(values, "budget.monthly")),
        replace(budget.total, **_section(values, "budget.total")),
    )


def _masked(request: project_pb2.UpdateProjectRequest) -> list[str]:
    paths, faults = [], []
    for path in request.update_mask.paths:
        leaves = [leaf for leaf in _LEAVES if leaf == path or leaf.startswith(f"{path}.")]
        if not leaves:
            faults.append(FieldViolation("updateMask", f"{_camel_path(path)} cannot be changed"))
        paths += leaves
    if faults:
        raise InvalidRequest(faults)
    return paths


def _present(project: project_pb2.Project) -> list[str]:
    return [path for path in _LEAVES if _is_present(project, path)]


def _is_present(message: Any, path: str) -> bool:
    *sections, name = path.split(".")
    for section in sections:
        message = getattr(message, section)
    if name in ("enabled_tools", "mcp_servers"):
        return bool(getattr(message, name))
    return bool(message.HasField(name))


def _value(message: Any, path: str) -> Any:
    """The value of a field as the domain has it; its default where it is absent."""
    if not _is_present(message, path):
        return _LEAVES[path].default
    for section in path.split("."):
        message = getattr(message, section)
    if path == "agent.enabled_tools":
        return tuple(message)
    if path == "agent.mcp_servers":
        return {server: _server(message[server]) for server in sorted(message)}
    return Decimal(str(message)) if path.endswith(".max_cost") else message


def _section(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    prefix = f"{section}."
    return {path.removeprefix(prefix): value for path, value in values.items() if path.startswith(prefix)}


def _camel_path(path: str) -> str:
    return ".".join(map(camel, path.split(".")))
