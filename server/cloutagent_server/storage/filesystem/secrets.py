"""Sealed secrets on disk: for each project a file of values and the manifest beside it, which change as one.

A change writes the manifest first, together with the one it replaces; then the values; then the manifest alone.
Wherever a crash cuts that short, the values are those of one of the two manifests in the file, so it is known which
of the two states holds. The next change starts from that state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain.errors import CloutAgentError, ProjectNotFound, StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import SealedSecret, SecretManifest, SecretRecord
from cloutagent_server.storage.changes import check_revision
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.manifest_records import (
    ManifestRecord,
    manifest_record_from_json,
    manifest_record_to_json,
)
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.secret_records import (
    key_check_from_json,
    key_check_to_json,
    secrets_from_json,
    secrets_to_json,
)

# How many changes in a row a reader looks again after, before it excludes the writers.
_TRIES: Final = 100

_log = structlog.get_logger(__name__)


class FileSystemSecrets:
    """`SecretStorage` on disk."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._layout = layout
        self._locks = locks

    async def read(self, project_id: str) -> SecretRecord:
        """See `SecretStorage.read`."""
        if not is_id(project_id):
            return SecretRecord()
        record = await off_loop(partial(self._load_beside_writers, project_id))
        if record.mismatches():
            # Somebody else wrote one of the files, or a restore is about to: a reader that excludes it knows.
            record = await self._locks.run_for_project(project_id, partial(self._load, project_id))
        return record

    async def update(self, project_id: str, change: Callable[[SecretRecord], SecretRecord | None]) -> SecretRecord:
        """See `SecretStorage.update`."""
        if not is_id(project_id):
            raise ProjectNotFound(project_id)
        return await self._locks.run_for_project(project_id, partial(self._update, project_id, change))

    async def list_owners(self) -> Sequence[str]:
        """See `SecretStorage.list_owners`."""
        return await off_loop(self._list_owners)

    async def read_key_check(self) -> SealedSecret | None:
        """See `SecretStorage.read_key_check`."""
        return await off_loop(self._load_key_check)

    async def put_key_check(self, sealed: SealedSecret, replaces: SealedSecret | None = None) -> None:
        """See `SecretStorage.put_key_check`."""
        await off_loop(partial(self._put_key_check, sealed, replaces), waits=True)

    def _load_key_check(self) -> SealedSecret | None:
        return load(self._layout.key_check, key_check_from_json)

    def _put_key_check(self, sealed: SealedSecret, replaces: SealedSecret | None) -> None:
        with self._locks.alone():
            if self._load_key_check() == replaces:
                self._write(self._layout.key_check, dump(key_check_to_json(sealed)))

    def _list_owners(self) -> Sequence[str]:
        return [
            project_id
            for project_id in filter(is_id, files.names_in(self._layout.root))
            if self._layout.secrets(project_id).exists() or self._layout.manifest(project_id).exists()
        ]

    def _load_beside_writers(self, project_id: str) -> SecretRecord:
        """Load again as often as a change, which writes the manifest, came between the reading of the two files."""
        path = self._layout.manifest(project_id)
        for _ in range(_TRIES):
            before = files.read(path)
            record = self._load(project_id)
            if not record.mismatches() or files.read(path) == before:
                return record
        return self._load(project_id)

    def _load(self, project_id: str) -> SecretRecord:
        """The state that holds: of a change that was cut short, the one whose manifest fits the values better."""
        stored = load(self._layout.manifest(project_id), manifest_record_from_json)
        values = load(self._layout.secrets(project_id), secrets_from_json) or {}
        if stored is None:
            return SecretRecord(values)
        if stored.manifest.project_id != project_id:
            raise StoredDataDamaged(str(self._layout.manifest(project_id)), "projectId is another project's")
        new = SecretRecord(values, stored.manifest)
        if not stored.pending:
            return new
        return min(new, SecretRecord(values, stored.replaces), key=SecretRecord.mismatches)

    def _update(self, project_id: str, change: Callable[[SecretRecord], SecretRecord | None]) -> SecretRecord:
        if not self._layout.metadata(project_id).exists():
            raise ProjectNotFound(project_id)
        old = self._load(project_id)
        new = change(old)
        if new is None:
            self._settle(project_id, old)
            return old
        check_revision(old, new)
        self._replace(project_id, old, new)
        return new

    def _settle(self, project_id: str, record: SecretRecord) -> None:
        """Let the manifest of the state that holds stand alone, after a change that was cut short."""
        path = self._layout.manifest(project_id)
        stored = load(path, manifest_record_from_json)
        if stored is not None and stored.pending:
            self._put_back(path, None if record.manifest is None else _settled(record.manifest))

    def _replace(self, project_id: str, old: SecretRecord, new: SecretRecord) -> None:
        """Let `new` take the place of `old`. When the values are in place, the change is made."""
        assert new.manifest is not None
        path, values_path = self._layout.manifest(project_id), self._layout.secrets(project_id)
        files.make_directory(path.parent)
        settled = _settled(new.manifest)
        if new.values == old.values:
            self._write(path, settled)
            return
        manifest_before, values_before = files.read(path), files.read(values_path)
        pending = ManifestRecord(new.manifest, True, old.manifest)
        self._write(path, dump(manifest_record_to_json(pending)))
        try:
            self._write(values_path, dump(secrets_to_json(new.values)))
        except BaseException:
            # Only beside the old values may the old manifest stand alone again.
            with suppress(OSError, CloutAgentError):
                if files.read(values_path) == values_before:
                    self._put_back(path, manifest_before)
            raise
        try:
            self._write(path, settled)
        except (OSError, CloutAgentError) as fault:
            # The change is made: it must not be reported as refused. The next change settles the manifest.
            _log.warning("manifest_not_settled", location=str(path), fault=repr(fault))

    def _put_back(self, path: Path, content: bytes | None) -> None:
        if content is None:
            path.unlink(missing_ok=True)
            files.sync_directory(path.parent)
        else:
            self._write(path, content)

    def _write(self, path: Path, content: bytes) -> None:
        files.write(path, content, self._layout.staging)


def _settled(manifest: SecretManifest) -> bytes:
    return dump(manifest_record_to_json(ManifestRecord(manifest)))
