"""What the services know of the audit log: actions begun and ended in it, and secrets held against it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, AuditHead, AuditRecord, Resource
from cloutagent_server.domain.errors import CloutAgentError, StoredDataDamaged
from cloutagent_server.domain.secret import SealedSecret, SecretRecord, SecretsHead
from cloutagent_server.service.auth import Principal
from cloutagent_server.service.refusals import Refusals
from cloutagent_server.storage.base import AuditLog, SecretStorage

log: Final = logging.getLogger(__name__)


def actor_of(principal: Principal | None) -> str:
    """How records name who calls; None for a call without a key."""
    if principal is None:
        return audit.ANONYMOUS
    if principal.project is None:
        return audit.ADMIN
    return f"key:{principal.project.id}/{principal.key_id}"


def by_operator(action: str, project_id: str | None = None) -> AuditEntry:
    """The entry of a command on the data folder."""
    return AuditEntry(audit.OPERATOR, action, audit.STARTED, Resource(project_id))


class AuditTrail:
    """Records actions: before they are done, or they are not done, and again when they have ended."""

    def __init__(self, records: AuditLog) -> None:
        self._records = records
        self._refusals = Refusals(self.note)

    async def head(self) -> AuditHead:
        """What stands for the log as it is."""
        return await self._records.head()

    async def begin(self, entry: AuditEntry) -> AuditRecord:
        """Record that an action is about to be done.

        Raises:
            StorageUnavailable: It cannot be recorded, so it must not be done.
        """
        return await self._records.append(replace(entry, outcome=audit.STARTED))

    async def end(
        self,
        begun: AuditRecord,
        outcome: str,
        resource: Resource | None = None,
        secrets_head: SecretsHead | None = None,
    ) -> None:
        """Record how an action ended; `resource` is what is known of it by now.

        What is done is done: if this cannot be recorded, the log keeps an action without an end, and the server's log
        says so.
        """
        entry = replace(begun.entry, outcome=outcome, start=begun.sequence, secrets_head=secrets_head)
        await self.note(entry if resource is None else replace(entry, resource=resource))

    async def refused(self, entry: AuditEntry) -> None:
        """Record a call that access control refused, or, after many of the same actor, count it for a later record."""
        await self._refusals.add(entry)

    async def stop(self) -> None:
        """Record what was only counted."""
        await self._refusals.stop()

    async def note(self, entry: AuditEntry) -> None:
        """Record something that has happened already; if that is refused, the server's log says so."""
        try:
            await self._records.append(entry)
        except CloutAgentError as fault:
            told = {"action": entry.action, "outcome": entry.outcome, "request_id": entry.request_id}
            rest = {"start": entry.start, "count": entry.count, "fault": repr(fault)}
            log.error("audit_record_lost", extra={**told, **rest})


class HeldAgainstAudit:
    """`SecretStorage` that refuses secrets which are older than what the audit log says of them.

    The audit log tells a state of a project's secrets after each change. So when both files of a project are put back
    as they were once, which the manifest alone cannot show, they are refused by name, for reading and for changing.
    Secrets that are newer than the record are fine: their change was made, and its end not recorded yet.
    """

    def __init__(self, secrets: SecretStorage, records: AuditLog) -> None:
        self._secrets = secrets
        self._records = records

    async def read(self, project_id: str) -> SecretRecord:
        """See `SecretStorage.read`. Raises StoredDataDamaged if the secrets were rolled back."""
        known = await self._records.secrets_head(project_id)
        record = await self._secrets.read(project_id)
        if _rolled_back(known, record):
            # A restore came in between, unless it is so when asked again.
            known = await self._records.secrets_head(project_id)
            record = await self._secrets.read(project_id)
            _refuse(project_id, known, record)
        return record

    async def update(self, project_id: str, change: Callable[[SecretRecord], SecretRecord | None]) -> SecretRecord:
        """See `SecretStorage.update`. Raises StoredDataDamaged if the secrets were rolled back."""
        known = await self._records.secrets_head(project_id)

        def checked(record: SecretRecord) -> SecretRecord | None:
            _refuse(project_id, known, record)
            return change(record)

        try:
            return await self._secrets.update(project_id, checked)
        except _RolledBack:
            known = await self._records.secrets_head(project_id)
            return await self._secrets.update(project_id, checked)

    async def list_owners(self) -> Sequence[str]:
        """See `SecretStorage.list_owners`."""
        return await self._secrets.list_owners()

    async def read_key_check(self) -> SealedSecret | None:
        """See `SecretStorage.read_key_check`."""
        return await self._secrets.read_key_check()

    async def put_key_check(self, sealed: SealedSecret, replaces: SealedSecret | None = None) -> None:
        """See `SecretStorage.put_key_check`."""
        await self._secrets.put_key_check(sealed, replaces)


class _RolledBack(StoredDataDamaged):
    """The secrets are older than the audit log says."""


def _rolled_back(known: SecretsHead | None, record: SecretRecord) -> bool:
    if known is None or record.revision > known.revision:
        return False
    return record.manifest is None or record.manifest.head != known


def _refuse(project_id: str, known: SecretsHead | None, record: SecretRecord) -> None:
    if known is not None and _rolled_back(known, record):
        found = f"at revision {record.revision}" if record.revision < known.revision else "in another state"
        raise _RolledBack(
            f"secrets of project {project_id}",
            f"were rolled back: the audit log knows them at revision {known.revision}, and they are {found}",
        )
