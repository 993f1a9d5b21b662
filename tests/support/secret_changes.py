"""Changes of a project's sealed secrets as the storage sees them: with a manifest that fits, which nobody signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.secret import SealedSecret, SecretEntry, SecretManifest, SecretRecord, SecretVersion
from cloutagent_server.storage.base import Storage
from tests.support import builders

KEY_ID = "0123456789abcdef"
OTHER_KEY_ID = "fedcba9876543210"


def following(
    record: SecretRecord, project_id: str, values: Mapping[str, SealedSecret], entries: Mapping[str, SecretEntry]
) -> SecretRecord:
    """The record after `record`, with these values and entries."""
    manifest = SecretManifest(project_id, record.revision + 1, KEY_ID, entries, mac="ab" * 32)
    return SecretRecord(values, manifest)


def with_secret(record: SecretRecord, project_id: str, name: str, sealed: SealedSecret) -> SecretRecord:
    """The record after a secret was set."""
    before, entry = record.entries.get(name), SecretEntry(1, builders.at(0), builders.at(0), KEY_ID, sealed.digest)
    if before is not None:
        earlier = SecretVersion(before.version, before.updated_at, KEY_ID, record.values[name])
        entry = replace(entry, version=before.version + 1, history=(earlier, *before.history)[:9])
    return following(record, project_id, {**record.values, name: sealed}, {**record.entries, name: entry})


def without_secret(record: SecretRecord, project_id: str, name: str) -> SecretRecord | None:
    """The record after a secret was removed; None if there is none of this name."""
    if name not in record.values:
        return None
    values = {other: sealed for other, sealed in record.values.items() if other != name}
    return following(record, project_id, values, {other: record.entries[other] for other in values})


def restored_secret(record: SecretRecord, project_id: str, name: str, version: int) -> SecretRecord | None:
    """The record after an earlier version was made the current one; None if it is that already, or there is none."""
    history = record.entries[name].history if name in record.entries else ()
    earlier = next((kept for kept in history if kept.version == version), None)
    if earlier is None or earlier.sealed == record.values[name]:
        return None
    return with_secret(record, project_id, name, earlier.sealed)


def resealed(
    record: SecretRecord, project_id: str, seal: Callable[[SealedSecret], SealedSecret]
) -> SecretRecord | None:
    """The record with all versions of all values sealed with another key; None if they are."""
    values = {name: seal(sealed) for name, sealed in record.values.items()}
    entries = {
        name: replace(
            entry,
            digest=values[name].digest,
            key_id=OTHER_KEY_ID,
            history=tuple(replace(kept, sealed=seal(kept.sealed), key_id=OTHER_KEY_ID) for kept in entry.history),
        )
        for name, entry in record.entries.items()
    }
    if all(entry.key_id == OTHER_KEY_ID for entry in record.entries.values()):
        return None
    return following(record, project_id, values, entries)


async def put_secret(storage: Storage, project_id: str, name: str, sealed: SealedSecret) -> None:
    """Set a secret."""
    await storage.secrets.update(project_id, lambda record: with_secret(record, project_id, name, sealed))


async def remove_secret(storage: Storage, project_id: str, name: str) -> bool:
    """Remove a secret. False if there was none of this name, or no such project."""
    before = await secrets_of(storage, project_id)
    try:
        await storage.secrets.update(project_id, lambda record: without_secret(record, project_id, name))
    except ProjectNotFound:
        return False
    return name in before


async def secrets_of(storage: Storage, project_id: str) -> Mapping[str, SealedSecret]:
    """The current values."""
    return (await storage.secrets.read(project_id)).values


async def restore_secret(storage: Storage, project_id: str, name: str, version: int) -> None:
    """Make an earlier version of a secret the current one."""
    await storage.secrets.update(project_id, lambda record: restored_secret(record, project_id, name, version))


async def reseal(storage: Storage, project_id: str, seal: Callable[[SealedSecret], SealedSecret]) -> None:
    """Seal all secrets of a project with another key."""
    await storage.secrets.update(project_id, lambda record: resealed(record, project_id, seal))
