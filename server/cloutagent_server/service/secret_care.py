"""What the operator does about stored secrets: check the key at start, inspect, adopt what other programs added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.secret import SealedSecret, SecretRecord
from cloutagent_server.service.cipher import CannotOpen
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.manifest import NOT_ADOPTED, damaged, fault_of, first_entry, open_sealed, signed, verify
from cloutagent_server.storage.base import SecretStorage

KEY_CHECK_TEXT = "cloutagent key check"


class WrongEncryptionKey(Exception):
    """ENCRYPTION_KEY does not open the secrets that are stored. The server must not start."""

    def __init__(self) -> None:
        super().__init__(
            "ENCRYPTION_KEY does not open the stored secrets: it is not the key that sealed them. "
            "If it is a new key, put the one before into ENCRYPTION_KEYS_RETIRED until "
            "cloutagent-server rotate-encryption-key has come to its end"
        )


@dataclass(frozen=True, slots=True)
class SecretFinding:
    """Something about a project's secrets that an operator should know.

    Attributes:
        location: Which secret, or which file.
        fault: What is wrong with it.
        adoptable: Whether `adopt` would mend it.
    """

    location: str
    fault: str
    adoptable: bool = False


async def check_key(storage: SecretStorage, keyring: Keyring) -> None:
    """Make sure that the keys open what is stored; on an empty storage, note which key it is.

    Raises:
        WrongEncryptionKey: The stored secrets were sealed with another key.
    """
    noted = await storage.read_key_check()
    if noted is None:
        if not await _opens_any(storage, keyring):
            raise WrongEncryptionKey
        await storage.put_key_check(keyring.current.seal(KEY_CHECK_TEXT))
        noted = await storage.read_key_check()
    try:
        if noted is not None:
            keyring.open(noted)
    except CannotOpen:
        raise WrongEncryptionKey from None


async def inspect(storage: SecretStorage, keyring: Keyring, project_id: str) -> Sequence[SecretFinding]:
    """What is wrong with a project's secrets, each opened in all its versions; empty if all is well."""
    try:
        record = await storage.read(project_id)
        if record.manifest is not None:
            verify(project_id, record.manifest, keyring)
    except StoredDataDamaged as fault:
        return [SecretFinding(fault.location, fault.fault)]
    names = sorted(record.values.keys() | record.entries.keys())
    return [finding for name in names for finding in _findings(project_id, name, record, keyring)]


async def adopt(storage: SecretStorage, keyring: Keyring, project_id: str) -> Sequence[str]:
    """Put into the manifest what other programs added to a project's secrets; returns the names, in order.

    A value that no key opens is left as it is. So is one that differs from what the manifest says: such a name was
    altered, not added, and is mended by setting or deleting it.

    Raises:
        ProjectNotFound: There is no such project.
        StoredDataDamaged: The manifest is not to be trusted.
    """
    adopted: list[str] = []

    def change(record: SecretRecord) -> SecretRecord | None:
        if record.manifest is not None:
            verify(project_id, record.manifest, keyring)
        now = timestamps.now()
        entries = {
            name: first_entry(record, name, sealed, key_id, now)
            for name, sealed in record.values.items()
            if name not in record.entries and (key_id := _key_id_of(sealed, keyring)) is not None
        }
        adopted[:] = sorted(entries)
        if not entries:
            return None
        return signed(project_id, record, record.values, {**record.entries, **entries}, keyring.current)

    await storage.update(project_id, change)
    return adopted


async def _opens_any(storage: SecretStorage, keyring: Keyring) -> bool:
    """Whether a key opens at least one of the stored values, or there are none."""
    seen = False
    for project_id in await storage.list_owners():
        try:
            values = (await storage.read(project_id)).values.values()
        except StoredDataDamaged:
            continue
        seen = seen or bool(values)
        if any(_key_id_of(sealed, keyring) for sealed in values):
            return True
    return not seen


def _key_id_of(sealed: SealedSecret, keyring: Keyring) -> str | None:
    try:
        return keyring.key_id_of(sealed)
    except CannotOpen:
        return None


def _findings(project_id: str, name: str, record: SecretRecord, keyring: Keyring) -> list[SecretFinding]:
    def finding(fault: str, adoptable: bool = False) -> SecretFinding:
        error = damaged(project_id, name, fault)
        return SecretFinding(error.location, error.fault, adoptable)

    entry = record.entries.get(name)
    if entry is None:
        try:
            keyring.key_id_of(record.values[name])
        except CannotOpen as refused:
            return [finding(str(refused))]
        return [finding(NOT_ADOPTED, adoptable=True)]
    found = []
    versions = [(earlier.version, earlier.sealed, earlier.key_id) for earlier in entry.history]
    fault = fault_of(name, record)
    if fault is not None:
        found.append(finding(fault))
    else:
        versions.insert(0, (entry.version, record.values[name], entry.key_id))
    for version, sealed, key_id in versions:
        try:
            open_sealed(sealed, key_id, keyring)
        except CannotOpen as refused:
            found.append(finding(f"version {version} cannot be opened: {refused}"))
    return found
