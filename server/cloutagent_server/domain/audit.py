"""The audit log's records: who did what to what, and how it ended, each chained to the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.secret import SecretsHead

SCHEMA_VERSION: Final = 1

ADMIN: Final = "admin"
ANONYMOUS: Final = "anonymous"
OPERATOR: Final = "operator"

STARTED: Final = "started"
OK: Final = "ok"
DENIED: Final = "denied"
CANCELLED: Final = "cancelled"
FAILED: Final = "failed"

ACCESS: Final = "access"
AUTHENTICATION: Final = "authentication"
DELETE_PROJECT: Final = "project.delete"
ADOPT_SECRETS: Final = "secret.adopt"
ROTATE_ENCRYPTION_KEY: Final = "encryption_key.rotate"
RESTORE_BACKUP: Final = "backup.restore"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an action is about, as far as it is known. `secret` is a name."""

    project_id: str | None = None
    execution_id: str | None = None
    key_id: str | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What is to be recorded. Never a value of a secret, never a key.

    Attributes:
        actor: `key:{project id}/{key id}`, `admin`, `anonymous`, or `operator` for commands on the data folder.
        action: For example `secret.set`.
        outcome: `started` before the action; after it `ok`, `cancelled`, or the reason of the error; `denied` for a
            call that no other record is about, since access was refused; `failed` for a command.
        request_id: The call's id; None for a command.
        source: The address that the call came from; None for a command.
        start: Sequence number of the record that says `started`, in the one that says how it ended.
        secrets_head: The state of the project's secrets after an action that changes them.
        count: Of `access`: calls of the actor that were denied too, and have no records of their own.
    """

    actor: str
    action: str
    outcome: str
    resource: Resource = Resource()
    request_id: str | None = None
    source: str | None = None
    start: int | None = None
    secrets_head: SecretsHead | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Stands for the whole log up to its last record. Noted elsewhere, it shows when records were cut off the end."""

    sequence: int = 0
    hash: str = "0" * 64


EMPTY: Final = AuditHead()


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A record of the log.

    Attributes:
        sequence: Counts from 1 without gaps.
        previous: The `hash` of the record before it; 64 zeros in the first.
        hash: SHA-256 of `content`, in hex.
    """

    sequence: int
    time: datetime
    entry: AuditEntry
    previous: str
    hash: str = ""

    @property
    def content(self) -> bytes:
        """What the hash covers: all but the hash, as JSON in UTF-8 with sorted names and no white space."""
        return json.dumps(to_json(replace(self, hash="")), sort_keys=True, separators=(",", ":")).encode()

    @property
    def computed_hash(self) -> str:
        """The hash that fits the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def head(self) -> AuditHead:
        """The head of a log that ends with this record."""
        return AuditHead(self.sequence, self.hash)


def chained(entry: AuditEntry, head: AuditHead, time: datetime) -> AuditRecord:
    """The record of `entry` that follows the log's head."""
    record = AuditRecord(head.sequence + 1, time, entry, head.hash)
    return replace(record, hash=record.computed_hash)


def to_json(record: AuditRecord) -> dict[str, Any]:
    """The JSON form of a record."""
    entry, resource = record.entry, record.entry.resource
    told = {
        "projectId": resource.project_id,
        "executionId": resource.execution_id,
        "keyId": resource.key_id,
        "secret": resource.secret,
    }
    head = entry.secrets_head
    document = {
        "schemaVersion": SCHEMA_VERSION,
        "sequence": record.sequence,
        "time": timestamps.to_text(record.time),
        "actor": entry.actor,
        "action": entry.action,
        "resource": _without_none(told),
        "outcome": entry.outcome,
        "start": entry.start,
        "requestId": entry.request_id,
        "source": entry.source,
        "secretsHead": None if head is None else {"revision": head.revision, "digest": head.digest},
        "count": entry.count,
        "previous": record.previous,
        "hash": record.hash or None,
    }
    return _without_none(document)


def _without_none(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Mark:
    """What the log says of a project's secrets.

    Attributes:
        head: The newest state; None if a restore left the project without a manifest.
        since: Sequence number of the restore that set it; 0 if none did. What was started before it counts no more.
    """

    head: SecretsHead | None
    since: int = 0


@dataclass(slots=True)
class SecretsHeads:
    """The newest state of each project's secrets, as the records tell it in their order."""

    marks: dict[str, Mark] = field(default_factory=dict)

    def apply(self, record: AuditRecord) -> None:
        """Take the next record of the log in."""
        entry, project_id = record.entry, record.entry.resource.project_id
        if project_id is None:
            return
        if entry.action == DELETE_PROJECT and entry.outcome == OK:
            self.marks.pop(project_id, None)
        elif entry.action == RESTORE_BACKUP and entry.outcome == STARTED:
            self.marks[project_id] = Mark(entry.secrets_head, record.sequence)
        elif entry.secrets_head is not None:
            mark = self.marks.get(project_id, Mark(None))
            late = (entry.start or record.sequence) < mark.since
            # Two changes at once may be recorded in either order.
            if not late and (mark.head is None or entry.secrets_head.revision >= mark.head.revision):
                self.marks[project_id] = replace(mark, head=entry.secrets_head)

    def of(self, project_id: str) -> SecretsHead | None:
        """The newest state of a project's secrets; None if no record tells one."""
        mark = self.marks.get(project_id)
        return None if mark is None else mark.head
