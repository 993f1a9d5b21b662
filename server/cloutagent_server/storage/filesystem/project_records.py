"""The JSON form of a project with its budget and keys: metadata.json."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.api_key import DEFAULT_KEY_NAME, ApiKeys
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.project import Budget, BudgetLimit, Project
from cloutagent_server.storage.filesystem.agent_records import (
    agent_from_fields,
    agent_to_json,
    limits_from_fields,
    limits_to_json,
)
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.key_records import key_from_fields, key_to_json
from cloutagent_server.storage.filesystem.schema import Fields, Schema


def _with_named_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one key, without an id. The one made here is the same at every reading, and tells no digest."""
    fields = dict(document)
    key = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, str(fields.get("id")))),
        "name": DEFAULT_KEY_NAME,
        "digest": fields.pop("apiKeyDigest", None),
        "hash": fields.get("apiKeyHash"),
        "createdAt": fields.get("createdAt"),
    }
    return {**fields, "apiKeys": [{name: value for name, value in key.items() if value is not None}]}


PROJECT: Final = Schema(2, {1: _with_named_keys})


@dataclass(frozen=True, slots=True)
class ProjectRecord:
    """What a project's metadata.json holds."""

    project: Project
    keys: ApiKeys

    @property
    def digests(self) -> tuple[str, ...]:
        """What leads to the project: the digest of each of its keys."""
        return tuple(key.credential.digest for key in self.keys)


def project_to_json(record: ProjectRecord) -> dict[str, Any]:
    """The document that holds a project."""
    project = record.project
    return PROJECT.stamp(
        {
            "id": project.id,
            "name": project.name,
            **({} if project.description is None else {"description": project.description}),
            "agent": agent_to_json(project.agent),
            "limits": limits_to_json(project.limits),
            **({} if project.budget == Budget() else {"budget": _budget_to_json(project.budget)}),
            "createdAt": timestamps.to_text(project.created_at),
            "updatedAt": timestamps.to_text(project.updated_at),
            "revision": project.revision,
            # Where the contract wants one hash: that of the default key.
            **({"apiKeyHash": record.keys[0].credential.hash} if record.keys else {}),
            "apiKeys": [key_to_json(key) for key in record.keys],
        }
    )


def project_from_json(document: object) -> ProjectRecord:
    """The project that a document holds. Raises ValueError."""
    fields = PROJECT.open(document)
    record = ProjectRecord(
        Project(
            id=fields.identifier("id"),
            name=fields.text("name"),
            description=fields.optional(fields.text, "description"),
            agent=agent_from_fields(fields.fields("agent")),
            limits=limits_from_fields(fields.fields("limits")),
            created_at=fields.time("createdAt"),
            updated_at=fields.time("updatedAt"),
            revision=fields.whole("revision", least=1),
            budget=fields.optional(lambda name: _budget(fields.fields(name)), "budget") or Budget(),
        ),
        tuple(map(key_from_fields, fields.items("apiKeys"))),
    )
    default_hash = fields.optional(fields.text, "apiKeyHash")
    fields.end()
    if default_hash != (record.keys[0].credential.hash if record.keys else None):
        raise ValueError("apiKeyHash is not the hash of the first of apiKeys")
    return record


def load_project(path: Path, project_id: str) -> ProjectRecord | None:
    """The record of a project; None if there is none.

    Raises:
        StoredDataDamaged: The file cannot be read, or is another project's.
    """
    record = load(path, project_from_json)
    if record is not None and record.project.id != project_id:
        raise StoredDataDamaged(str(path), "id is another project's")
    return record


def _budget_to_json(budget: Budget) -> dict[str, Any]:
    periods = {"daily": budget.daily, "monthly": budget.monthly, "total": budget.total}
    return {name: _budget_limit_to_json(limit) for name, limit in periods.items() if limit != BudgetLimit()}


def _budget_limit_to_json(limit: BudgetLimit) -> dict[str, Any]:
    return {
        **({} if limit.max_tokens is None else {"maxTokens": limit.max_tokens}),
        **({} if limit.max_cost is None else {"maxCost": float(limit.max_cost)}),
    }


def _budget(fields: Fields) -> Budget:
    def limit(name: str) -> BudgetLimit:
        period = fields.fields(name)
        cost = period.optional(period.number, "maxCost")
        found = BudgetLimit(period.optional(period.whole, "maxTokens"), None if cost is None else Decimal(str(cost)))
        period.end()
        return found

    budget = Budget(*(fields.optional(limit, name) or BudgetLimit() for name in ("daily", "monthly", "total")))
    fields.end()
    return budget
