"""The lines of the audit log, and what is noted of a segment that is full."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, AuditHead, AuditRecord, Mark, Resource, SecretsHeads
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import SecretsHead
from cloutagent_server.storage.filesystem.documents import dump_line
from cloutagent_server.storage.filesystem.schema import DIGEST, Fields, Schema, parse

RECORD: Final = Schema(audit.SCHEMA_VERSION)
SNAPSHOT: Final = Schema(1)
_ACTION: Final = re.compile(r"[a-z_]+(\.[a-z_]+)?")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a segment's records, and all before it, amount to. `size` is the segment's, in bytes."""

    size: int
    head: AuditHead
    heads: SecretsHeads


def encode(record: AuditRecord) -> bytes:
    """The line of a record."""
    return dump_line(audit.to_json(record))


def decode(line: bytes) -> AuditRecord:
    """The record in a line. Raises ValueError if it is none, or its hash does not fit."""
    fields = RECORD.open(parse(line))
    record = AuditRecord(
        sequence=fields.whole("sequence", least=1),
        time=fields.time("time"),
        entry=AuditEntry(
            actor=fields.text("actor"),
            action=fields.matching("action", _ACTION),
            outcome=fields.text("outcome"),
            resource=_resource(fields.fields("resource")),
            request_id=fields.optional(fields.text, "requestId"),
            source=fields.optional(fields.text, "source"),
            start=fields.optional(fields.whole, "start"),
            secrets_head=_secrets_head(fields),
            count=fields.optional(fields.whole, "count"),
        ),
        previous=fields.matching("previous", DIGEST),
        hash=fields.matching("hash", DIGEST),
    )
    fields.end()
    if record.hash != record.computed_hash:
        raise ValueError("was altered: its hash does not fit its content")
    return record


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The document that holds a snapshot."""
    return SNAPSHOT.stamp(
        {
            "size": snapshot.size,
            "sequence": snapshot.head.sequence,
            "hash": snapshot.head.hash,
            "projects": {project_id: _mark_to_json(mark) for project_id, mark in snapshot.heads.marks.items()},
        }
    )


def snapshot_from_json(document: object) -> Snapshot:
    """The snapshot that a document holds. Raises ValueError."""
    fields = SNAPSHOT.open(document)
    projects = fields.fields("projects")
    marks: dict[str, Mark] = {}
    for project_id in projects.names():
        if not is_id(project_id):
            raise ValueError("projects holds something that is not an identifier")
        marks[project_id] = _mark(projects.fields(project_id))
    snapshot = Snapshot(
        fields.whole("size"),
        AuditHead(fields.whole("sequence"), fields.matching("hash", DIGEST)),
        SecretsHeads(marks),
    )
    fields.end()
    return snapshot


def _resource(fields: Fields) -> Resource:
    resource = Resource(
        fields.optional(fields.identifier, "projectId"),
        fields.optional(fields.identifier, "executionId"),
        fields.optional(fields.identifier, "keyId"),
        fields.optional(fields.text, "secret"),
    )
    fields.end()
    return resource


def _secrets_head(fields: Fields) -> SecretsHead | None:
    head = fields.optional(fields.fields, "secretsHead")
    if head is None:
        return None
    found = SecretsHead(head.whole("revision", least=1), head.matching("digest", DIGEST))
    head.end()
    return found


def _mark_to_json(mark: Mark) -> dict[str, Any]:
    head = {} if mark.head is None else {"secretsHead": {"revision": mark.head.revision, "digest": mark.head.digest}}
    return {"since": mark.since, **head}


def _mark(fields: Fields) -> Mark:
    mark = Mark(_secrets_head(fields), fields.whole("since"))
    fields.end()
    return mark
