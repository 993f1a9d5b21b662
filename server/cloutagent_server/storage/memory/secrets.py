"""Sealed secrets in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.secret import SealedSecret, SecretRecord
from cloutagent_server.storage.changes import check_revision
from cloutagent_server.storage.memory.records import Records


class MemorySecrets:
    """`SecretStorage` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def read(self, project_id: str) -> SecretRecord:
        """See `SecretStorage.read`."""
        record = self._records.projects.get(project_id)
        return SecretRecord() if record is None else record.secrets

    async def update(self, project_id: str, change: Callable[[SecretRecord], SecretRecord | None]) -> SecretRecord:
        """See `SecretStorage.update`."""
        record = self._records.projects.get(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        new = change(record.secrets)
        if new is not None:
            check_revision(record.secrets, new)
            record.secrets = new
        return record.secrets

    async def list_owners(self) -> Sequence[str]:
        """See `SecretStorage.list_owners`."""
        return [project_id for project_id, record in self._records.projects.items() if record.secrets != SecretRecord()]

    async def read_key_check(self) -> SealedSecret | None:
        """See `SecretStorage.read_key_check`."""
        return self._records.key_check

    async def put_key_check(self, sealed: SealedSecret, replaces: SealedSecret | None = None) -> None:
        """See `SecretStorage.put_key_check`."""
        if self._records.key_check == replaces:
            self._records.key_check = sealed
