"""Changing the key that seals the stored secrets, project by project, while servers go on serving."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from cloutagent_server.domain.errors import ProjectNotFound, StoredDataDamaged
from cloutagent_server.domain.secret import SealedSecret, SecretEntry, SecretRecord, SecretsHead
from cloutagent_server.service.cipher import CannotOpen
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.manifest import NOT_ADOPTED, damaged, fault_of, open_sealed, signed, verify
from cloutagent_server.service.secret_care import KEY_CHECK_TEXT, check_key
from cloutagent_server.storage.base import SecretStorage

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a rotation has come.

    Attributes:
        projects: Projects with secrets that were dealt with.
        total: How many there are.
        sealed_anew: Values that were sealed with the new key, earlier versions included.
        faults: What could not be sealed anew. With any, the retired keys are still needed.
    """

    projects: int
    total: int
    sealed_anew: int = 0
    faults: tuple[str, ...] = ()


async def _nothing(_project_id: str, _head: SecretsHead) -> None:
    """Nobody wants to know."""


async def rotate_encryption_key(
    storage: SecretStorage,
    keyring: Keyring,
    adopted_only: bool,
    report: Callable[[Progress], None],
    changed: Callable[[str, SecretsHead], Awaitable[None]] = _nothing,
) -> Progress:
    """Seal every stored value with the current key, and sign every manifest with it.

    `changed` is told of every project whose secrets were changed, and of the state they are in since.

    A project's secrets change as one, so this may be killed at any point and started again: it goes on where it was.
    Once it ends without a fault, only the current key is needed, and the storage refuses the retired ones alone.

    Raises:
        WrongEncryptionKey: The keys open nothing of what is stored.
        StorageUnavailable: The storage refused a write.
    """
    await check_key(storage, keyring)
    owners = sorted(await storage.list_owners())
    progress = Progress(0, len(owners))
    for project_id in owners:
        rotation = _Rotation(project_id, keyring, adopted_only)
        try:
            record = await storage.update(project_id, rotation.change)
            if rotation.changed and record.manifest is not None:
                await changed(project_id, record.manifest.head)
        except StoredDataDamaged as fault:
            rotation.fail(fault)
        except ProjectNotFound:
            log.info("project_gone", extra={"project_id": project_id})
        progress = Progress(
            progress.projects + 1,
            progress.total,
            progress.sealed_anew + rotation.sealed_anew,
            (*progress.faults, *rotation.faults),
        )
        report(progress)
    if not progress.faults:
        noted = await storage.read_key_check()
        await storage.put_key_check(keyring.current.seal(KEY_CHECK_TEXT), replaces=noted)
    return progress


class _Rotation:
    """Seals one project's secrets anew.

    Attributes:
        sealed_anew: How many values it sealed.
        faults: What it had to leave.
        changed: Whether there is another state of the secrets since.
    """

    def __init__(self, project_id: str, keyring: Keyring, adopted_only: bool) -> None:
        self._project_id = project_id
        self._keyring = keyring
        self._adopted_only = adopted_only
        self.sealed_anew = 0
        self.faults: list[str] = []
        self.changed = False

    def fail(self, fault: StoredDataDamaged) -> None:
        """Note what cannot be sealed anew."""
        self.faults.append(f"{fault.location}: {fault.fault}")

    def change(self, record: SecretRecord) -> SecretRecord | None:
        """The record under the current key alone; None if it is that already."""
        self.sealed_anew, self.faults = 0, []
        if record.manifest is not None:
            verify(self._project_id, record.manifest, self._keyring)
        values, entries = dict(record.values), dict(record.entries)
        for name in record.values.keys() | record.entries.keys():
            try:
                entry = record.entries.get(name)
                if entry is None:
                    values[name] = self._foreign(name, record.values[name])
                else:
                    entries[name] = self._history(name, entry)
                    values[name], entries[name] = self._current(name, record, entries[name])
            except StoredDataDamaged as fault:
                self.fail(fault)
        stale = record.manifest is not None and record.manifest.key_id != self._keyring.current.key_id
        self.changed = stale or self.sealed_anew > 0
        if not self.changed:
            return None
        return signed(self._project_id, record, values, entries, self._keyring.current)

    def _current(self, name: str, record: SecretRecord, entry: SecretEntry) -> tuple[SealedSecret, SecretEntry]:
        fault = fault_of(name, record)
        if fault is not None:
            raise damaged(self._project_id, name, fault)
        sealed = self._anew(name, record.values[name], entry.key_id)
        return sealed, replace(entry, digest=sealed.digest, key_id=self._keyring.current.key_id)

    def _history(self, name: str, entry: SecretEntry) -> SecretEntry:
        current = self._keyring.current.key_id
        history = tuple(
            replace(earlier, sealed=self._anew(name, earlier.sealed, earlier.key_id), key_id=current)
            for earlier in entry.history
        )
        return replace(entry, history=history)

    def _foreign(self, name: str, sealed: SealedSecret) -> SealedSecret:
        if self._adopted_only:
            raise damaged(self._project_id, name, NOT_ADOPTED)
        try:
            return self._anew(name, sealed, self._keyring.key_id_of(sealed))
        except CannotOpen as fault:
            raise damaged(self._project_id, name, str(fault)) from None

    def _anew(self, name: str, sealed: SealedSecret, key_id: str) -> SealedSecret:
        if key_id == self._keyring.current.key_id:
            return sealed
        try:
            plaintext = open_sealed(sealed, key_id, self._keyring)
        except CannotOpen as fault:
            raise damaged(self._project_id, name, str(fault)) from None
        self.sealed_anew += 1
        return self._keyring.current.seal(plaintext)
