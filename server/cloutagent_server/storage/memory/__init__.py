"""Records in this process's memory: for tests and trials. Nothing outlives the process."""

from __future__ import annotations

from cloutagent_server.storage.memory.audit import MemoryAuditLog
from cloutagent_server.storage.memory.executions import MemoryExecutions
from cloutagent_server.storage.memory.ledger import MemoryLedger
from cloutagent_server.storage.memory.projects import MemoryProjects
from cloutagent_server.storage.memory.records import Records
from cloutagent_server.storage.memory.secrets import MemorySecrets


class MemoryStorage:
    """A storage backend without a medium. For one event loop."""

    def __init__(self) -> None:
        records = Records()
        self._projects = MemoryProjects(records)
        self._secrets = MemorySecrets(records)
        self._executions = MemoryExecutions(records)
        self._audit = MemoryAuditLog()
        self._ledger = MemoryLedger(records)

    @property
    def projects(self) -> MemoryProjects:
        """Projects."""
        return self._projects

    @property
    def secrets(self) -> MemorySecrets:
        """Secrets."""
        return self._secrets

    @property
    def executions(self) -> MemoryExecutions:
        """Executions."""
        return self._executions

    @property
    def audit(self) -> MemoryAuditLog:
        """The audit log."""
        return self._audit

    @property
    def ledger(self) -> MemoryLedger:
        """Ledgers."""
        return self._ledger

    async def start(self) -> None:
        """Nothing is to be prepared."""

    async def check_writable(self) -> None:
        """Memory takes writes."""

    async def stop(self) -> None:
        """Nothing is held."""


__all__ = ["MemoryStorage"]
