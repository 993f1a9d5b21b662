"""The JSON form of the manifest of a project's secrets: manifest.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloutagent_server.domain.secret import SecretEntry, SecretManifest, SecretVersion, manifest_to_json
from cloutagent_server.storage.filesystem.schema import Fields, Schema
from cloutagent_server.storage.filesystem.secret_records import check_name, sealed_from_fields

MANIFEST: Final = Schema(1)


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """What a project's manifest.json holds.

    Attributes:
        manifest: The newest manifest.
        pending: Whether its values may not have been written yet; then those of `replaces` are still valid.
        replaces: The manifest before it; None if there was none.
    """

    manifest: SecretManifest
    pending: bool = False
    replaces: SecretManifest | None = None


def manifest_record_to_json(record: ManifestRecord) -> dict[str, Any]:
    """The document that holds a manifest."""
    replaced = None if record.replaces is None else _manifest_to_json(record.replaces)
    return MANIFEST.stamp({**_manifest_to_json(record.manifest), **({"replaces": replaced} if record.pending else {})})


def manifest_record_from_json(document: object) -> ManifestRecord:
    """The manifest that a document holds. Raises ValueError."""
    fields = MANIFEST.open(document)
    pending = fields.has("replaces")
    replaces = fields.nullable(lambda name: _manifest(fields.fields(name)), "replaces") if pending else None
    return ManifestRecord(_manifest(fields), pending, replaces)


def _manifest_to_json(manifest: SecretManifest) -> dict[str, Any]:
    return {**manifest_to_json(manifest), "mac": manifest.mac}


def _manifest(fields: Fields) -> SecretManifest:
    secrets = fields.fields("secrets")
    manifest = SecretManifest(
        project_id=fields.identifier("projectId"),
        revision=fields.whole("revision", least=1),
        key_id=fields.hexadecimal("keyId"),
        entries={name: _entry(name, secrets.fields(name)) for name in secrets.names()},
        deleted=dict(map(_deletion, fields.items("deleted") if fields.has("deleted") else ())),
        mac=fields.hexadecimal("mac"),
    )
    fields.end()
    return manifest


def _deletion(fields: Fields) -> tuple[str, int]:
    name, last = fields.text("name"), fields.whole("version", least=1)
    fields.end()
    return name, last


def _entry(name: str, fields: Fields) -> SecretEntry:
    check_name(name)
    entry = SecretEntry(
        version=fields.whole("version", least=1),
        created_at=fields.time("createdAt"),
        updated_at=fields.time("updatedAt"),
        key_id=fields.hexadecimal("keyId"),
        digest=fields.hexadecimal("digest"),
        history=tuple(_version(earlier) for earlier in fields.items("history")),
    )
    fields.end()
    return entry


def _version(fields: Fields) -> SecretVersion:
    version = fields.whole("version", least=1)
    return SecretVersion(version, fields.time("createdAt"), fields.hexadecimal("keyId"), sealed_from_fields(fields))
