"""What the parts of the in-memory backend share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.events import StoredEvent
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import LedgerCall
from cloutagent_server.domain.project import Project
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.domain.secret import SealedSecret, SecretRecord
from cloutagent_server.storage.ledger_book import MonthBook
from cloutagent_server.storage.watchers import Watchers


@dataclass(slots=True)
class ProjectRecord:
    """A project with all that goes when it goes. `idempotency` leads from a key to the execution it stands for."""

    project: Project
    keys: ApiKeys
    key_uses: Mapping[str, datetime] = field(default_factory=dict)
    secrets: SecretRecord = field(default_factory=SecretRecord)
    execution_ids: set[str] = field(default_factory=set)
    idempotency: dict[str, str] = field(default_factory=dict)
    ledger: dict[str, MonthBook] = field(default_factory=dict)
    calls: dict[str, LedgerCall] = field(default_factory=dict)


@dataclass(slots=True)
class ExecutionRecord:
    """An execution as its events have made it, and these events but for the first `trimmed`.

    `digest` is that of all events, kept when some were trimmed.
    """

    execution: Execution
    events: list[StoredEvent] = field(default_factory=list)
    trimmed: int = 0
    digest: LogDigest | None = None


@dataclass(slots=True)
class Records:
    """All records. `keys` leads from the digest of an API key to its project."""

    projects: dict[str, ProjectRecord] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    executions: dict[str, ExecutionRecord] = field(default_factory=dict)
    unfinished: set[str] = field(default_factory=set)
    cancel_requests: set[str] = field(default_factory=set)
    key_check: SealedSecret | None = None
    watchers: Watchers = field(default_factory=Watchers)
    settlements: Watchers = field(default_factory=Watchers)

    def remove_execution(self, execution_id: str) -> None:
        """Forget an execution and let its watchers find it gone."""
        record = self.executions.pop(execution_id)
        self.unfinished.discard(execution_id)
        owner = self.projects.get(record.execution.project_id)
        if owner is not None:
            owner.execution_ids.discard(execution_id)
            if record.execution.idempotency is not None:
                owner.idempotency.pop(record.execution.idempotency.key, None)
        self.watchers.wake(execution_id)
