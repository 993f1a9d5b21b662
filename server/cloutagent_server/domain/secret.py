"""Secrets as they are kept: sealed, with a manifest that binds each value to its name and project."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cloutagent_server.domain import timestamps

MAX_VALUE_BYTES: Final = 65_536
NAME_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
KEPT_VERSIONS: Final = 10
KEPT_DELETIONS: Final = 1000
MAX_SECRETS: Final = 1000
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""How long the values of all kept versions of a project's secrets may be together. Each change writes all of them."""


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A value sealed with AES-256-GCM, each part in hex: 16-byte IV, 16-byte authentication tag, ciphertext."""

    iv: str
    auth_tag: str
    encrypted: str

    @property
    def digest(self) -> str:
        """SHA-256 of the three parts as they are written, in hex."""
        return hashlib.sha256(_canonical(sealed_to_json(self))).hexdigest()


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """An earlier value of a secret. `key_id` tells which key sealed it."""

    version: int
    created_at: datetime
    key_id: str
    sealed: SealedSecret


@dataclass(frozen=True, slots=True)
class SecretEntry:
    """What the manifest says of one secret.

    Attributes:
        version: Version of the current value, from 1.
        created_at: When the first version was set.
        updated_at: When the current version was set.
        key_id: Which key sealed the current value.
        digest: `SealedSecret.digest` of the current value, which lies outside the manifest.
        history: Up to `KEPT_VERSIONS` - 1 earlier versions, newest first.
    """

    version: int
    created_at: datetime
    updated_at: datetime
    key_id: str
    digest: str
    history: tuple[SecretVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class SecretManifest:
    """Which secrets a project has, and which sealed values are theirs.

    Attributes:
        revision: Rises by one with every change, from 1.
        key_id: Which key the MAC was made with.
        entries: What there is, by name.
        deleted: The last version of names that are no more, the one that was deleted last at the end, up to
            `KEPT_DELETIONS` of them. Whoever sets such a name again goes on counting there.
        mac: HMAC-SHA-256 of `content`, in hex.
    """

    project_id: str
    revision: int
    key_id: str
    entries: Mapping[str, SecretEntry]
    deleted: Mapping[str, int] = field(default_factory=dict)
    mac: str = ""

    @property
    def content(self) -> bytes:
        """What the MAC covers: all but the MAC, as JSON in UTF-8 with sorted names and no white space."""
        return _canonical(manifest_to_json(self))

    @property
    def head(self) -> SecretsHead:
        """What stands for this state of the project's secrets."""
        return SecretsHead(self.revision, hashlib.sha256(self.content).hexdigest())


@dataclass(frozen=True, slots=True)
class SecretsHead:
    """Stands for one state of a project's secrets. Noted elsewhere, it shows when all of them were rolled back.

    Attributes:
        revision: The manifest's.
        digest: SHA-256 of the manifest's content, in hex.
    """

    revision: int
    digest: str


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """A project's secrets: the current values by name, and the manifest, which is None until one is made."""

    values: Mapping[str, SealedSecret] = field(default_factory=dict)
    manifest: SecretManifest | None = None

    @property
    def revision(self) -> int:
        """The manifest's revision; 0 without one."""
        return 0 if self.manifest is None else self.manifest.revision

    @property
    def entries(self) -> Mapping[str, SecretEntry]:
        """The manifest's entries."""
        return {} if self.manifest is None else self.manifest.entries

    @property
    def deleted(self) -> Mapping[str, int]:
        """The last version of names that are no more."""
        return {} if self.manifest is None else self.manifest.deleted

    @property
    def kept_bytes(self) -> int:
        """How long the plain values of all kept versions are together."""
        earlier = (version.sealed for entry in self.entries.values() for version in entry.history)
        return sum(len(sealed.encrypted) // 2 for sealed in (*self.values.values(), *earlier))

    def mismatches(self) -> int:
        """How many names have a value that is not the manifest's, no value, or no entry. Needs no key."""
        digests = {name: entry.digest for name, entry in self.entries.items()}
        return sum(
            name not in self.values or self.values[name].digest != digests.get(name)
            for name in self.values.keys() | digests.keys()
        )


@dataclass(frozen=True, slots=True)
class SecretMetadata:
    """What may be told of a secret without its value. The times are None for one that no manifest has yet."""

    name: str
    version: int
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class VersionMetadata:
    """What may be told of one version of a secret."""

    version: int
    created_at: datetime | None


def sealed_to_json(sealed: SealedSecret) -> dict[str, Any]:
    """The contract's JSON form of a sealed value."""
    return {"iv": sealed.iv, "authTag": sealed.auth_tag, "encrypted": sealed.encrypted}


def manifest_to_json(manifest: SecretManifest) -> dict[str, Any]:
    """The JSON form of a manifest without its MAC."""
    deleted = manifest.deleted
    return {
        "projectId": manifest.project_id,
        "revision": manifest.revision,
        "keyId": manifest.key_id,
        "secrets": {name: _entry_to_json(entry) for name, entry in manifest.entries.items()},
        **({"deleted": [{"name": name, "version": last} for name, last in deleted.items()]} if deleted else {}),
    }


def _entry_to_json(entry: SecretEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "createdAt": timestamps.to_text(entry.created_at),
        "updatedAt": timestamps.to_text(entry.updated_at),
        "keyId": entry.key_id,
        "digest": entry.digest,
        "history": [
            {
                "version": earlier.version,
                "createdAt": timestamps.to_text(earlier.created_at),
                "keyId": earlier.key_id,
                **sealed_to_json(earlier.sealed),
            }
            for earlier in entry.history
        ],
    }


def _canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
