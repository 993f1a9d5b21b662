"""Whether every project's record is whole and makes sense."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.project import AgentConfig, Limits
from cloutagent_server.storage.filesystem.doctor.findings import FROM_BACKUP, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.key_records import key_uses_from_json
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project

_BCRYPT: Final = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")


def check_projects(folder: Folder) -> Iterable[Finding]:
    """Every metadata.json: schema, identifier, agent, limits, digest and hash of the key; and when keys were used."""
    for project_id in folder.project_ids():
        path = folder.layout.metadata(project_id)
        try:
            record = load_project(path, project_id)
        except StoredDataDamaged as fault:
            yield folder.damaged(fault)
            continue
        if record is None:
            missing = partial(_has_no_record, folder, project_id)
            yield Finding(Severity.ERROR, project_id, "has no metadata.json", FROM_BACKUP, still=missing)
            continue
        for fault_text in _faults(record):
            yield Finding(Severity.ERROR, folder.relative(path), fault_text, FROM_BACKUP)
        try:
            load(folder.layout.key_uses(project_id), key_uses_from_json)
        except StoredDataDamaged as fault:
            yield folder.damaged(fault, "remove it: it holds when keys were last used, and nothing else")


def _has_no_record(folder: Folder, project_id: str) -> bool:
    return folder.layout.project(project_id).is_dir() and not folder.layout.metadata(project_id).exists()


def _faults(record: ProjectRecord) -> Iterator[str]:
    project = record.project
    if not project.name.strip():
        yield "name is empty"
    if project.updated_at < project.created_at:
        yield "updatedAt is earlier than createdAt"
    yield from _agent_faults(project.agent)
    yield from _limit_faults(project.limits)
    for number, key in enumerate(record.keys):
        if _BCRYPT.fullmatch(key.credential.hash) is None:
            yield f"apiKeys[{number}].hash is not a bcrypt hash"


def _agent_faults(agent: AgentConfig) -> Iterator[str]:
    for name, text in (("id", agent.id), ("name", agent.name), ("model", agent.model)):
        if not text.strip():
            yield f"agent.{name} is empty"
    if not 0 <= agent.temperature <= 1:
        yield "agent.temperature is not between 0 and 1"
    if agent.max_tokens < 1:
        yield "agent.maxTokens is less than 1"


def _limit_faults(limits: Limits) -> Iterator[str]:
    if limits.max_tokens < 1:
        yield "limits.maxTokens is less than 1"
    if limits.timeout < 1:
        yield "limits.timeout is less than 1"
    if not (limits.max_cost.is_finite() and limits.max_cost > 0):
        yield "limits.maxCost is not a finite number above 0"
