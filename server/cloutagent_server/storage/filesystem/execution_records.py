"""The JSON form of what an execution was created with: part of the first line of its log."""

from __future__ import annotations

from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.execution import Execution, Idempotency
from cloutagent_server.storage.filesystem.agent_records import (
    agent_from_fields,
    agent_to_json,
    limits_from_fields,
    limits_to_json,
)
from cloutagent_server.storage.filesystem.schema import Fields, Schema

EXECUTION: Final = Schema(3, {1: dict, 2: dict})
"""The first line of a log. Version 1 had no checksums, which concerns its lines and not what it tells. In version 2 a
trimmed log had no digest of what it was before."""


def execution_fields_to_json(execution: Execution) -> dict[str, Any]:
    """What an execution was created with: part of the first line of its log."""
    idempotency = execution.idempotency
    return {
        "id": execution.id,
        "projectId": execution.project_id,
        "prompt": execution.prompt,
        "variables": dict(execution.variables),
        "agent": agent_to_json(execution.agent),
        "limits": limits_to_json(execution.limits),
        "createdAt": timestamps.to_text(execution.created_at),
        **({"labels": dict(execution.labels)} if execution.labels else {}),
        **({"secretNames": list(execution.secret_names)} if execution.secret_names else {}),
        **(
            {}
            if idempotency is None
            else {"idempotency": {"key": idempotency.key, "requestDigest": idempotency.request_digest}}
        ),
    }


def execution_from_fields(fields: Fields) -> Execution:
    """The execution before its first event. Raises ValueError."""
    execution = Execution(
        id=fields.identifier("id"),
        project_id=fields.identifier("projectId"),
        prompt=fields.text("prompt"),
        variables=fields.text_map("variables"),
        agent=agent_from_fields(fields.fields("agent")),
        limits=limits_from_fields(fields.fields("limits")),
        created_at=fields.time("createdAt"),
        labels=fields.optional(fields.text_map, "labels") or {},
        secret_names=tuple(fields.optional(fields.texts, "secretNames") or ()),
        idempotency=fields.optional(lambda name: _idempotency(fields.fields(name)), "idempotency"),
    )
    fields.end()
    return execution


def _idempotency(fields: Fields) -> Idempotency:
    idempotency = Idempotency(fields.text("key"), fields.text("requestDigest"))
    fields.end()
    return idempotency
