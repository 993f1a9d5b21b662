"""The audit log in memory."""

from __future__ import annotations

from collections.abc import Sequence

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.audit import EMPTY, AuditEntry, AuditHead, AuditRecord, SecretsHeads, chained
from cloutagent_server.domain.secret import SecretsHead


class MemoryAuditLog:
    """`AuditLog` in memory."""

    def __init__(self) -> None:
        self._records: list[AuditRecord] = []
        self._heads = SecretsHeads()

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """See `AuditLog.append`."""
        record = chained(entry, await self.head(), timestamps.now())
        self._records.append(record)
        self._heads.apply(record)
        return record

    async def read(self, after_sequence: int, limit: int) -> Sequence[AuditRecord]:
        """See `AuditLog.read`."""
        return tuple(self._records[after_sequence : after_sequence + limit])

    async def head(self) -> AuditHead:
        """See `AuditLog.head`."""
        return self._records[-1].head if self._records else EMPTY

    async def secrets_head(self, project_id: str) -> SecretsHead | None:
        """See `AuditLog.secrets_head`."""
        return self._heads.of(project_id)
