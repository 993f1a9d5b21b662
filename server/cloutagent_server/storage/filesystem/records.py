"""The JSON form of stored records, camelCase as in the API, and back."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.api_key import DEFAULT_KEY_NAME, ApiKey, ApiKeys
from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, ExceededLimit, Usage
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.events import Failure, FailureReason
from cloutagent_server.domain.execution import Execution, Idempotency, Status
from cloutagent_server.domain.project import AgentConfig, Budget, BudgetLimit, KeyCredential, Limits, Project
from cloutagent_server.domain.secret import (
    NAME_PATTERN,
    SealedSecret,
    SecretEntry,
    SecretManifest,
    SecretVersion,
    manifest_to_json,
    sealed_to_json,
)
from cloutagent_server.storage.filesystem import files, mcp_records
from cloutagent_server.storage.filesystem.schema import Fields, Schema, parse

T = TypeVar("T")

DIGEST: Final = re.compile(r"[0-9a-f]{64}")


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
KEY_USES: Final = Schema(1)
EXECUTION: Final = Schema(3, {1: dict, 2: dict})
"""The first line of a log. Version 1 had no checksums, which concerns its lines and not what it tells. In version 2 a
trimmed log had no digest of what it was before."""
STATE: Final = Schema(1)
KEY_CHECK: Final = Schema(1)
MANIFEST: Final = Schema(1)


def load(path: Path, read: Callable[[Any], T]) -> T | None:
    """What `read` makes of the JSON in a file; None if there is no file.

    Raises:
        StoredDataDamaged: The file is not JSON, or `read` refused it with ValueError.
    """
    content = files.read(path)
    if content is None:
        return None
    try:
        return read(parse(content))
    except ValueError as fault:
        raise StoredDataDamaged(str(path), str(fault)) from fault


def dump(document: Mapping[str, Any]) -> bytes:
    """A document as the content of a file."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2).encode() + b"\n"


def dump_line(document: Mapping[str, Any]) -> bytes:
    """A document as a line of a file."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


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
            "agent": _agent_to_json(project.agent),
            "limits": _limits_to_json(project.limits),
            **({} if project.budget == Budget() else {"budget": _budget_to_json(project.budget)}),
            "createdAt": timestamps.to_text(project.created_at),
            "updatedAt": timestamps.to_text(project.updated_at),
            "revision": project.revision,
            # Where the contract wants one hash: that of the default key.
            **({"apiKeyHash": record.keys[0].credential.hash} if record.keys else {}),
            "apiKeys": [_key_to_json(key) for key in record.keys],
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
            agent=_agent(fields.fields("agent")),
            limits=_limits(fields.fields("limits")),
            created_at=fields.time("createdAt"),
            updated_at=fields.time("updatedAt"),
            revision=fields.whole("revision", least=1),
            budget=fields.optional(lambda name: _budget(fields.fields(name)), "budget") or Budget(),
        ),
        tuple(map(_key, fields.items("apiKeys"))),
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


def key_uses_to_json(uses: Mapping[str, datetime]) -> dict[str, Any]:
    """The document that holds when keys were last used."""
    return KEY_USES.stamp({"lastUsedAt": {key_id: timestamps.to_text(time) for key_id, time in uses.items()}})


def key_uses_from_json(document: object) -> Mapping[str, datetime]:
    """The times that a document holds, by key id. Raises ValueError."""
    fields = KEY_USES.open(document)
    uses = {key_id: timestamps.from_text(time) for key_id, time in fields.text_map("lastUsedAt").items()}
    fields.end()
    return uses


def secrets_to_json(secrets: Mapping[str, SealedSecret]) -> dict[str, str]:
    """The document that holds secrets: by name, each sealed value as a JSON text of its own."""
    return {name: json.dumps(sealed_to_json(sealed)) for name, sealed in secrets.items()}


def secrets_from_json(document: object) -> Mapping[str, SealedSecret]:
    """The secrets that a document holds. Raises ValueError."""
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")
    return {name: _sealed_text(name, value) for name, value in document.items()}


def key_check_to_json(sealed: SealedSecret) -> dict[str, Any]:
    """The document that holds what tells which key sealed the secrets."""
    return KEY_CHECK.stamp(sealed_to_json(sealed))


def key_check_from_json(document: object) -> SealedSecret:
    """The value that a document holds. Raises ValueError."""
    return _sealed(KEY_CHECK.open(document))


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """What a project's manifest.json holds.

    Attributes:
        manifest: The newest manifest.
        pending: Whether its values may not have been written yet; then those of `replaces` are still valid.
        replaces: The manifest before it; None if there was none.
    """

    manifest: SecretManifest
    pending: bool = False
    replaces: SecretManifest | None = None


def manifest_record_to_json(record: ManifestRecord) -> dict[str, Any]:
    """The document that holds a manifest."""
    replaced = None if record.replaces is None else _manifest_to_json(record.replaces)
    return MANIFEST.stamp({**_manifest_to_json(record.manifest), **({"replaces": replaced} if record.pending else {})})


def manifest_record_from_json(document: object) -> ManifestRecord:
    """The manifest that a document holds. Raises ValueError."""
    fields = MANIFEST.open(document)
    pending = fields.has("replaces")
    replaces = fields.nullable(lambda name: _manifest(fields.fields(name)), "replaces") if pending else None
    return ManifestRecord(_manifest(fields), pending, replaces)


def execution_fields_to_json(execution: Execution) -> dict[str, Any]:
    """What an execution was created with: part of the first line of its log."""
    idempotency = execution.idempotency
    return {
        "id": execution.id,
        "projectId": execution.project_id,
        "prompt": execution.prompt,
        "variables": dict(execution.variables),
        "agent": _agent_to_json(execution.agent),
        "limits": _limits_to_json(execution.limits),
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
        agent=_agent(fields.fields("agent")),
        limits=_limits(fields.fields("limits")),
        created_at=fields.time("createdAt"),
        labels=fields.optional(fields.text_map, "labels") or {},
        secret_names=tuple(fields.optional(fields.texts, "secretNames") or ()),
        idempotency=fields.optional(lambda name: _idempotency(fields.fields(name)), "idempotency"),
    )
    fields.end()
    return execution


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What state.json holds: the execution after the first `log_size` bytes of its log."""

    log_size: int
    execution: Execution


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The document that holds a snapshot. What the execution was created with stays in the log alone."""
    execution = snapshot.execution
    return STATE.stamp({"executionId": execution.id, "logSize": snapshot.log_size, **outcome_to_json(execution)})


def outcome_to_json(execution: Execution) -> dict[str, Any]:
    """What the events of an execution have made of it."""
    optional = {
        "result": execution.result,
        "resultTruncated": True if execution.result_truncated else None,
        "failure": None if execution.failure is None else _failure_to_json(execution.failure),
        "startedAt": None if execution.started_at is None else timestamps.to_text(execution.started_at),
        "finishedAt": None if execution.finished_at is None else timestamps.to_text(execution.finished_at),
        "duration": execution.duration,
        "queuePosition": execution.queue_position,
    }
    return {
        "lastSequence": execution.last_sequence,
        "status": execution.status.value,
        "usage": event_json.usage_to_json(execution.usage),
        **{name: value for name, value in optional.items() if value is not None},
    }


def outcome_from_fields(fields: Fields, created: Execution) -> Execution:
    """The execution `created` after the events that a document tells the outcome of. Raises ValueError."""
    return replace(
        created,
        last_sequence=fields.whole("lastSequence"),
        status=Status(fields.text("status")),
        usage=_usage(fields.fields("usage")),
        result=fields.optional(fields.text, "result"),
        result_truncated=fields.optional(fields.truth, "resultTruncated") or False,
        failure=fields.optional(lambda name: _failure(fields.fields(name)), "failure"),
        started_at=fields.optional(fields.time, "startedAt"),
        finished_at=fields.optional(fields.time, "finishedAt"),
        duration=fields.optional(fields.whole, "duration"),
        queue_position=fields.optional(fields.whole, "queuePosition"),
    )


def snapshot_from_json(document: object, created: Execution) -> Snapshot:
    """The snapshot that a document holds of the execution `created`. Raises ValueError."""
    fields = STATE.open(document)
    if fields.identifier("executionId") != created.id:
        raise ValueError("executionId is another execution's")
    log_size = fields.whole("logSize", least=1)
    snapshot = Snapshot(log_size, outcome_from_fields(fields, created))
    fields.end()
    return snapshot


def _key_to_json(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "digest": key.credential.digest,
        "hash": key.credential.hash,
        "createdAt": timestamps.to_text(key.created_at),
        **({} if key.expires_at is None else {"expiresAt": timestamps.to_text(key.expires_at)}),
        **({"inGrace": True} if key.in_grace else {}),
    }


def _key(fields: Fields) -> ApiKey:
    key = ApiKey(
        id=fields.identifier("id"),
        name=fields.text("name"),
        credential=KeyCredential(fields.matching("digest", DIGEST), fields.text("hash")),
        created_at=fields.time("createdAt"),
        expires_at=fields.optional(fields.time, "expiresAt"),
        in_grace=fields.optional(fields.truth, "inGrace") or False,
    )
    fields.end()
    return key


def _agent_to_json(agent: AgentConfig) -> dict[str, Any]:
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


def _agent(fields: Fields) -> AgentConfig:
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


def _limits_to_json(limits: Limits) -> dict[str, Any]:
    return {"maxTokens": limits.max_tokens, "maxCost": float(limits.max_cost), "timeout": limits.timeout}


def _limits(fields: Fields) -> Limits:
    limits = Limits(
        max_tokens=fields.whole("maxTokens"),
        max_cost=Decimal(str(fields.number("maxCost"))),
        timeout=fields.whole("timeout"),
    )
    fields.end()
    return limits


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


def _usage(fields: Fields) -> Usage:
    usage = Usage(
        prompt_tokens=fields.whole("promptTokens"),
        completion_tokens=fields.whole("completionTokens"),
        cache_read_tokens=fields.whole("cacheReadTokens"),
        cache_write_tokens=fields.whole("cacheWriteTokens"),
        total_cost=Decimal(str(fields.number("totalCost"))),
        model_calls=fields.whole("modelCalls"),
        estimated=fields.optional(fields.truth, "estimated") or False,
    )
    fields.end()
    return usage


def _failure_to_json(failure: Failure) -> dict[str, Any]:
    document: dict[str, Any] = {"reason": failure.reason.value, "message": failure.message}
    if failure.exceeded is not None:
        document["exceeded"] = failure.exceeded.value
    if failure.budget is not None:
        document["budget"] = event_json.budget_to_json(failure.budget)
    return document


def _failure(fields: Fields) -> Failure:
    exceeded = fields.optional(fields.text, "exceeded")
    failure = Failure(
        FailureReason(fields.text("reason")),
        fields.text("message"),
        None if exceeded is None else ExceededLimit(exceeded),
        fields.optional(lambda name: _budget_exceeded(fields.fields(name)), "budget"),
    )
    fields.end()
    return failure


def _budget_exceeded(fields: Fields) -> BudgetExceeded:
    exceeded = BudgetExceeded(
        BudgetScope(fields.text("scope")),
        ExceededLimit(fields.text("exceeded")),
        Decimal(str(fields.number("limit"))),
        Decimal(str(fields.number("used"))),
    )
    fields.number("left")
    fields.end()
    return exceeded


def _idempotency(fields: Fields) -> Idempotency:
    idempotency = Idempotency(fields.text("key"), fields.text("requestDigest"))
    fields.end()
    return idempotency


def _sealed(fields: Fields) -> SealedSecret:
    sealed = SealedSecret(fields.hexadecimal("iv"), fields.hexadecimal("authTag"), fields.hexadecimal("encrypted"))
    fields.end()
    return sealed


def _manifest_to_json(manifest: SecretManifest) -> dict[str, Any]:
    return {**manifest_to_json(manifest), "mac": manifest.mac}


def _manifest(fields: Fields) -> SecretManifest:
    secrets = fields.fields("secrets")
    manifest = SecretManifest(
        project_id=fields.identifier("projectId"),
        revision=fields.whole("revision", least=1),
        key_id=fields.hexadecimal("keyId"),
        entries={name: _entry(name, secrets.fields(name)) for name in secrets.names()},
        deleted=dict(map(_deletion, fields.items("deleted") if fields.has("deleted") else ())),
        mac=fields.hexadecimal("mac"),
    )
    fields.end()
    return manifest


def _deletion(fields: Fields) -> tuple[str, int]:
    name, last = fields.text("name"), fields.whole("version", least=1)
    fields.end()
    return name, last


def _entry(name: str, fields: Fields) -> SecretEntry:
    _check_name(name)
    entry = SecretEntry(
        version=fields.whole("version", least=1),
        created_at=fields.time("createdAt"),
        updated_at=fields.time("updatedAt"),
        key_id=fields.hexadecimal("keyId"),
        digest=fields.hexadecimal("digest"),
        history=tuple(_version(earlier) for earlier in fields.items("history")),
    )
    fields.end()
    return entry


def _version(fields: Fields) -> SecretVersion:
    version = fields.whole("version", least=1)
    return SecretVersion(version, fields.time("createdAt"), fields.hexadecimal("keyId"), _sealed(fields))


def _check_name(name: str) -> None:
    if NAME_PATTERN.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not the name of a secret")


def _sealed_text(name: str, value: object) -> SealedSecret:
    _check_name(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    document = parse(value.encode())
    if not isinstance(document, dict):
        raise ValueError(f"{name} does not hold an object")
    return _sealed(Fields(document, f"{name}."))
