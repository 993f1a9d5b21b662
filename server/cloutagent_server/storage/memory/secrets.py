"""Sealed secrets in memory."""

from __future__ import annotations

from collections.abc import Mapping

from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.memory.records import Records


class MemorySecrets:
    """`SecretStorage` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def read(self, project_id: str) -> Mapping[str, SealedSecret]:
        """See `SecretStorage.read`."""
        record = self._records.projects.get(project_id)
        return {} if record is None else dict(record.secrets)

    async def put(self, project_id: str, name: str, sealed: SealedSecret) -> None:
        """See `SecretStorage.put`."""
        record = self._records.projects.get(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        record.secrets[name] = sealed

    async def remove(self, project_id: str, name: str) -> bool:
        """See `SecretStorage.remove`."""
        record = self._records.projects.get(project_id)
        return record is not None and record.secrets.pop(name, None) is not None

    async def read_key_check(self) -> SealedSecret | None:
        """See `SecretStorage.read_key_check`."""
        return self._records.key_check

    async def put_key_check(self, sealed: SealedSecret) -> None:
        """See `SecretStorage.put_key_check`."""
        if self._records.key_check is None:
            self._records.key_check = sealed
