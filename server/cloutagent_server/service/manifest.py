"""The manifest of a project's secrets: signed with the server's key, so that each value stays where it was put.

A sealed value alone opens under any name and in any project, at any time. The manifest says which value is the
current one of which name of which project, and whoever has no key cannot make one.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.secret import (
    KEPT_DELETIONS,
    KEPT_VERSIONS,
    SealedSecret,
    SecretEntry,
    SecretManifest,
    SecretRecord,
    SecretVersion,
)
from cloutagent_server.service.cipher import CannotOpen, Cipher
from cloutagent_server.service.keyring import Keyring

NOT_ADOPTED: Final = "no manifest vouches for it: another program added it; cloutagent-server doctor --adopt accepts it"


def verify(project_id: str, manifest: SecretManifest, keyring: Keyring) -> None:
    """Make sure that one of the keys signed the manifest, for this project.

    Raises:
        StoredDataDamaged: It was altered, belongs to another project, or was signed with a key that is not here.
    """
    location = f"manifest of the secrets of project {project_id}"
    if manifest.project_id != project_id:
        raise StoredDataDamaged(location, f"it belongs to project {manifest.project_id}")
    cipher = keyring.find(manifest.key_id)
    if cipher is None:
        raise StoredDataDamaged(location, _unknown_key(manifest.key_id))
    if not hmac.compare_digest(cipher.mac(manifest.content), manifest.mac):
        raise StoredDataDamaged(location, "it was altered: its authentication code does not fit its content")


def signed(
    project_id: str,
    old: SecretRecord,
    values: Mapping[str, SealedSecret],
    entries: Mapping[str, SecretEntry],
    cipher: Cipher,
) -> SecretRecord:
    """The record that follows `old`, with these values and the signed manifest of these entries."""
    manifest = SecretManifest(project_id, old.revision + 1, cipher.key_id, dict(entries), _deleted(old, entries))
    return SecretRecord(dict(values), replace(manifest, mac=cipher.mac(manifest.content)))


def fault_of(name: str, record: SecretRecord) -> str | None:
    """What is wrong with the value of a secret that has an entry in a manifest that was verified; None if nothing is.

    It is for the operator: whether the value was removed, moved, rolled back or altered.
    """
    entry, sealed = record.entries[name], record.values.get(name)
    if sealed is None:
        return "its value was removed from secrets.enc"
    digest = sealed.digest
    if digest == entry.digest:
        return None
    for earlier in entry.history:
        if digest == earlier.sealed.digest:
            return f"it was rolled back from version {entry.version} to version {earlier.version}"
    for other, its_entry in record.entries.items():
        if digest in (its_entry.digest, *(earlier.sealed.digest for earlier in its_entry.history)):
            return f"the value is that of the secret {other}: it was moved"
    return "the value was altered, or is that of another project: it is not the one that was set"


def damaged(project_id: str, name: str, fault: str) -> StoredDataDamaged:
    """The error about a secret, by its name."""
    return StoredDataDamaged(f"secret {name} of project {project_id}", fault)


def open_sealed(sealed: SealedSecret, key_id: str, keyring: Keyring) -> str:
    """The text that the key of this id sealed.

    Raises:
        CannotOpen: It is not one of the keys, or the value was altered.
    """
    cipher = keyring.find(key_id)
    if cipher is None:
        raise CannotOpen(_unknown_key(key_id))
    return cipher.open(sealed)


def first_entry(record: SecretRecord, name: str, sealed: SealedSecret, key_id: str, now: datetime) -> SecretEntry:
    """The entry of a secret that is new: version 1, or the next one of a secret of this name that was deleted."""
    return SecretEntry(record.deleted.get(name, 0) + 1, now, now, key_id, sealed.digest)


def next_entry(
    entry: SecretEntry, replaced: SealedSecret | None, sealed: SealedSecret, key_id: str, now: datetime
) -> SecretEntry:
    """The entry after a new value was set. `replaced` is the current value; None if it is lost and cannot be kept."""
    history = entry.history
    if replaced is not None:
        history = (SecretVersion(entry.version, entry.updated_at, entry.key_id, replaced), *history)
    return SecretEntry(
        version=entry.version + 1,
        created_at=entry.created_at,
        updated_at=max(now, entry.updated_at),
        key_id=key_id,
        digest=sealed.digest,
        history=history[: KEPT_VERSIONS - 1],
    )


def _deleted(old: SecretRecord, entries: Mapping[str, SecretEntry]) -> dict[str, int]:
    """The names that are no more once these entries stand; of too many, those deleted longest ago are forgotten."""
    known = [(name, last) for name, last in old.deleted.items() if name not in entries]
    known += [(name, entry.version) for name, entry in old.entries.items() if name not in entries]
    return dict(known[-KEPT_DELETIONS:])


def _unknown_key(key_id: str) -> str:
    return f"it was sealed with the key {key_id}, which is neither ENCRYPTION_KEY nor in ENCRYPTION_KEYS_RETIRED"
