"""Secrets of projects: sealed before they are stored, opened only when asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import (
    FieldViolation,
    InvalidRequest,
    ProjectNotFound,
    SecretLimitReached,
    SecretNotFound,
    SecretVersionConflict,
    SecretVersionNotFound,
    StoredDataDamaged,
)
from cloutagent_server.domain.secret import (
    MAX_KEPT_BYTES,
    MAX_SECRETS,
    MAX_VALUE_BYTES,
    NAME_PATTERN,
    SealedSecret,
    SecretEntry,
    SecretMetadata,
    SecretRecord,
    SecretsHead,
    VersionMetadata,
)
from cloutagent_server.service.cipher import CannotOpen, from_json, to_json
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.manifest import (
    NOT_ADOPTED,
    damaged,
    fault_of,
    first_entry,
    next_entry,
    open_sealed,
    signed,
    verify,
)
from cloutagent_server.service.secret_care import check_key
from cloutagent_server.storage.base import SecretStorage

_T = TypeVar("_T")

log: Final = logging.getLogger(__name__)


class SecretManager:
    """Keeps the secrets of projects. Values are sealed with the server's key in the contract's format.

    No plain value is kept: each is opened when it is asked for, and left to its caller.
    """

    def __init__(self, storage: SecretStorage, keyring: Keyring, adopted_only: bool = False) -> None:
        """With `adopted_only`, what another program added is refused until it is adopted, instead of read."""
        self._storage = storage
        self._keyring = keyring
        self._adopted_only = adopted_only

    async def check_key(self) -> None:
        """Make sure that the keys open what is stored; on an empty storage, note which key it is.

        Raises:
            WrongEncryptionKey: The stored secrets were sealed with another key.
        """
        await check_key(self._storage, self._keyring)

    async def encrypt(self, plaintext: str, context: bytes = b"") -> str:
        """Seal a value: the JSON text `{"iv","authTag","encrypted"}` in hex, different each time.

        `context` binds the result: it opens only with the same context. The empty one is the contract's format.
        """
        return to_json(self._keyring.current.seal(plaintext, context))

    async def decrypt(self, ciphertext: str, context: bytes = b"") -> str:
        """Open what `encrypt` made, also under a key that was retired since.

        Raises:
            InvalidRequest: It is malformed or altered, or was sealed with another key or context.
        """
        try:
            return self._keyring.open(from_json(ciphertext), context)
        except CannotOpen as fault:
            raise InvalidRequest.of("ciphertext", f"cannot be opened: {fault}") from None

    async def set_secret(
        self, project_id: str, name: str, value: str, expected_version: int | None = None
    ) -> SecretMetadata:
        """Store a value under a name, as the secret's next version.

        Raises:
            InvalidRequest: The name or the size of the value is not allowed.
            ProjectNotFound: There is no such project.
            SecretVersionConflict: `expected_version` is given and is not the current one; 0 stands for no secret.
            SecretLimitReached: The project has 1,000 secrets, or the versions that are kept would be more than 16 MiB.
            StoredDataDamaged: The manifest is not to be trusted, or the name is one that must be adopted first.
        """
        faults = []
        if NAME_PATTERN.fullmatch(name) is None:
            faults.append(FieldViolation("name", "must be a letter or _, then up to 127 letters, digits or _"))
        if len(value.encode()) > MAX_VALUE_BYTES:
            faults.append(FieldViolation("value", f"must be at most {MAX_VALUE_BYTES} bytes"))
        if faults:
            raise InvalidRequest(faults)
        sealed = self._keyring.current.seal(value)

        def choose(_: SecretRecord, entry: SecretEntry | None) -> SealedSecret:
            version = 0 if entry is None else entry.version
            if expected_version not in (None, version):
                raise SecretVersionConflict(name, version)
            return sealed

        return await self._put(project_id, name, choose)

    async def restore_version(self, project_id: str, name: str, version: int) -> SecretMetadata:
        """Make the value of a version the current one again, as a new version.

        Raises:
            ProjectNotFound: There is no such project.
            SecretNotFound: It has no secret of this name.
            SecretVersionNotFound: The version is not kept.
            SecretLimitReached: The versions that are kept would be more than 16 MiB.
            StoredDataDamaged: What is stored is not to be trusted.
        """

        def choose(record: SecretRecord, entry: SecretEntry | None) -> SealedSecret:
            if entry is None:
                raise SecretNotFound(name)
            return self._keyring.current.seal(self._open(project_id, name, record, entry, version))

        return await self._put(project_id, name, choose)

    async def get_secret(self, project_id: str, name: str, version: int | None = None) -> str | None:
        """The plain value of the current version or of this one; None if the project has no secret of this name.

        Raises:
            SecretVersionNotFound: The version is not kept.
            StoredDataDamaged: What is stored was altered, moved, rolled back, or sealed with a key that is not here.
        """
        record = await self._read(project_id)
        entry = self._entry(project_id, name, record)
        return None if entry is None else self._open(project_id, name, record, entry, version)

    async def get_secrets(self, project_id: str, names: Collection[str]) -> dict[str, str]:
        """The plain current values of those of `names` that the project has; reads what is stored once.

        Raises:
            StoredDataDamaged: As for `get_secret`.
        """
        if not names:
            return {}
        record = await self._read(project_id)
        entries = {name: self._entry(project_id, name, record) for name in sorted(names)}
        return {
            name: self._open(project_id, name, record, entry, None)
            for name, entry in entries.items()
            if entry is not None
        }

    async def get_metadata(self, project_id: str, name: str) -> SecretMetadata | None:
        """What may be told of a secret; None if the project has none of this name.

        Raises:
            StoredDataDamaged: The manifest is not to be trusted, or the name is one that must be adopted first.
        """
        record = await self._read(project_id)
        entry = self._entry(project_id, name, record)
        return None if entry is None else _metadata(name, entry, name in record.entries)

    async def list_versions(self, project_id: str, name: str) -> Sequence[VersionMetadata] | None:
        """The versions of a secret that are kept, newest first; None if the project has none of this name.

        Raises:
            StoredDataDamaged: As for `get_metadata`.
        """
        record = await self._read(project_id)
        entry = self._entry(project_id, name, record)
        if entry is None:
            return None
        set_at = entry.updated_at if name in record.entries else None
        earlier = (VersionMetadata(version.version, version.created_at) for version in entry.history)
        return [VersionMetadata(entry.version, set_at), *earlier]

    async def list_secrets(self, project_id: str) -> list[str]:
        """The names of the project's secrets in alphabetical order, those whose value is damaged included.

        Raises:
            StoredDataDamaged: The manifest is not to be trusted, or there is none where there must be one.
        """
        record = await self._read(project_id)
        return sorted(record.values.keys() | record.entries.keys())

    async def delete_secret(self, project_id: str, name: str) -> bool:
        """Remove a secret with all its versions. False if there was none of this name.

        Raises:
            StoredDataDamaged: As for `get_metadata`.
        """
        found = False

        def change(record: SecretRecord) -> SecretRecord | None:
            nonlocal found
            self._verify(project_id, record)
            found = name in record.entries or name in record.values
            if not found:
                return None
            if self._adopted_only and name not in record.entries:
                raise damaged(project_id, name, NOT_ADOPTED)
            return signed(
                project_id, record, _without(record.values, name), _without(record.entries, name), self._keyring.current
            )

        try:
            await self._storage.update(project_id, change)
        except ProjectNotFound:
            return False
        return found

    async def head(self, project_id: str) -> SecretsHead | None:
        """What stands for the present state of the project's secrets; None while no manifest was made.

        Whoever notes it elsewhere can tell later that all files were rolled back: the state is then another.

        Raises:
            StoredDataDamaged: The manifest is not to be trusted.
        """
        manifest = (await self._read(project_id)).manifest
        return None if manifest is None else manifest.head

    async def _read(self, project_id: str) -> SecretRecord:
        record = await self._storage.read(project_id)
        self._verify(project_id, record)
        return record

    async def _put(
        self, project_id: str, name: str, choose: Callable[[SecretRecord, SecretEntry | None], SealedSecret]
    ) -> SecretMetadata:
        """Store as the secret's next version what `choose` makes of the record and the secret's entry."""

        def change(record: SecretRecord) -> SecretRecord:
            self._verify(project_id, record)
            entry = self._entry(project_id, name, record)
            sealed, now, cipher = choose(record, entry), timestamps.now(), self._keyring.current
            if entry is None:
                entry = first_entry(record, name, sealed, cipher.key_id, now)
            else:
                replaced = record.values.get(name)
                if replaced is None or replaced.digest != entry.digest:
                    replaced = None
                    log.warning("secret_version_lost", extra={"project_id": project_id, "secret": name})
                entry = next_entry(entry, replaced, sealed, cipher.key_id, now)
            values, limit = {**record.values, name: sealed}, max(MAX_KEPT_BYTES, record.kept_bytes)
            changed = signed(project_id, record, values, {**record.entries, name: entry}, cipher)
            while changed.kept_bytes > limit and entry.history:
                # A secret can be replaced also where there is no room for its past.
                entry = replace(entry, history=entry.history[:-1])
                changed = signed(project_id, record, values, {**record.entries, name: entry}, cipher)
            _check_limits(record, changed)
            return changed

        stored = await self._storage.update(project_id, change)
        return _metadata(name, stored.entries[name])

    def _verify(self, project_id: str, record: SecretRecord) -> None:
        if record.manifest is not None:
            verify(project_id, record.manifest, self._keyring)
        elif record.values and self._adopted_only:
            raise StoredDataDamaged(f"secrets.enc of project {project_id}", NOT_ADOPTED)

    def _entry(self, project_id: str, name: str, record: SecretRecord) -> SecretEntry | None:
        """The manifest's entry of a secret, or one made up for a value that another program added."""
        sealed = record.values.get(name)
        if name in record.entries or sealed is None:
            return record.entries.get(name)
        if self._adopted_only:
            raise damaged(project_id, name, NOT_ADOPTED)
        log.warning("secret_not_adopted", extra={"project_id": project_id, "secret": name, "fault": NOT_ADOPTED})
        try:
            return first_entry(record, name, sealed, self._keyring.key_id_of(sealed), timestamps.now())
        except CannotOpen as fault:
            raise damaged(project_id, name, str(fault)) from None

    def _open(self, project_id: str, name: str, record: SecretRecord, entry: SecretEntry, version: int | None) -> str:
        if version in (None, entry.version):
            fault = fault_of(name, record) if name in record.entries else None
            if fault is not None:
                raise damaged(project_id, name, fault)
            sealed, key_id = record.values[name], entry.key_id
        else:
            earlier = next((earlier for earlier in entry.history if earlier.version == version), None)
            if earlier is None:
                assert version is not None
                raise SecretVersionNotFound(name, version)
            sealed, key_id = earlier.sealed, earlier.key_id
        try:
            return open_sealed(sealed, key_id, self._keyring)
        except CannotOpen as fault:
            raise damaged(project_id, name, str(fault)) from None


def _check_limits(before: SecretRecord, after: SecretRecord) -> None:
    """Raise SecretLimitReached if it is too much and has become more: what is there already can be changed."""
    if len(after.entries) > max(MAX_SECRETS, len(before.entries)):
        raise SecretLimitReached(MAX_SECRETS, "names")
    if after.kept_bytes > max(MAX_KEPT_BYTES, before.kept_bytes):
        raise SecretLimitReached(MAX_KEPT_BYTES, "bytes, with the versions that are kept")


def _metadata(name: str, entry: SecretEntry, adopted: bool = True) -> SecretMetadata:
    if not adopted:
        return SecretMetadata(name, entry.version, None, None)
    return SecretMetadata(name, entry.version, entry.created_at, entry.updated_at)


def _without(entries: Mapping[str, _T], name: str) -> dict[str, _T]:
    return {other: entry for other, entry in entries.items() if other != name}
