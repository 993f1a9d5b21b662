"""Putting the projects of a backup into a data folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from cloutagent_server.domain.audit import OK, OPERATOR, RESTORE_BACKUP, STARTED, AuditEntry, AuditRecord, Resource
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.audit_files import AuditFiles, segment_numbers
from cloutagent_server.storage.filesystem.backup.archive import KEY_CHECK, Archive, BackupDamaged, File, Manifest
from cloutagent_server.storage.filesystem.backup.owners import PresentOwners
from cloutagent_server.storage.filesystem.backup.verify import FaultOf, Parts, RestoreRefused, checked
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import (
    AUDIT,
    EXECUTIONS,
    MANIFEST,
    METADATA,
    SECRETS,
    Layout,
)
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.manifest_records import manifest_record_from_json
from cloutagent_server.storage.filesystem.project_records import (
    ProjectRecord,
    load_project,
    project_to_json,
)
from cloutagent_server.storage.filesystem.removal import Removal
from cloutagent_server.storage.filesystem.replacing import complete_replacement, index_execution
from cloutagent_server.storage.filesystem.schema import parse
from cloutagent_server.storage.filesystem.secret_records import key_check_from_json


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, or would do: projects created, replaced, and left as they are."""

    created: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def restore(
    path: Path, root: Path, *, replace_existing: bool, dry_run: bool, fault_of: FaultOf | None = None
) -> Restored:
    """Put the projects of a backup into the data folder `root`, each in one step. Blocks.

    Projects that are there already stay as they are, unless `replace_existing`: then record, key and secrets are the
    backup's, and executions are added. A backup with an API key or an execution that is another project's in the
    folder, as far as its index tells, is refused. Without `dry_run` a storage must have been started on the folder, so
    that locks and index are there; servers may be at work.

    Raises:
        BackupDamaged, RestoreRefused: Nothing was changed.
        OSError, StorageUnavailable: The medium refused, or another process kept a lock; whatever project was not
            finished is as it was before, or is completed at the next start.
    """
    layout = Layout(root.absolute())
    with path.open("rb") as stream:
        backup = Archive(stream)
        records = [record for _, record in checked(backup, fault_of) if record is not None]
        manifest = backup.manifest
        plan = _plan(layout, manifest, replace_existing)
        _check_key(layout, stream, fault_of)
        _check_owners(layout, manifest, records, plan)
        if dry_run:
            return plan
        _check_space(layout, manifest, plan)
        stream.seek(0)
        backup = Archive(stream)
        if backup.manifest != manifest:
            raise BackupDamaged("it was altered while it was read")
        return _Restore(layout, plan).run(backup)


def _plan(layout: Layout, manifest: Manifest, replace_existing: bool) -> Restored:
    created: list[str] = []
    there: list[str] = []
    for project_id in dict.fromkeys(file.project_id for file in manifest.files):
        if project_id is not None:
            (there if os.path.lexists(layout.project(project_id)) else created).append(project_id)
    if replace_existing:
        return Restored(tuple(created), replaced=tuple(there))
    return Restored(tuple(created), kept=tuple(there))


def _check_key(layout: Layout, stream: BinaryIO, fault_of: FaultOf | None) -> None:
    """Refuse secrets of another key than the folder's."""
    present = load(layout.key_check, key_check_from_json)
    if fault_of is not None:
        if present is not None and fault_of(present) is not None:
            raise RestoreRefused("ENCRYPTION_KEY is not the key that sealed the secrets of the folder")
        return
    stream.seek(0)
    for file, parts in Archive(stream).files():
        if file.path == KEY_CHECK and present not in (None, key_check_from_json(parse(b"".join(parts)))):
            raise RestoreRefused("the folder may have another key than the backup; set ENCRYPTION_KEY to tell")
        return


def _check_owners(layout: Layout, manifest: Manifest, records: Iterable[ProjectRecord], plan: Restored) -> None:
    """Refuse a key or an execution of another project in the folder: the index would no longer lead to that one."""
    present, wanted = PresentOwners(layout), {*plan.created, *plan.replaced}
    try:
        for record in records:
            if record.project.id in wanted:
                present.check_keys(record)
        for file in manifest.files:
            if file.execution_id is not None and file.project_id in wanted:
                present.check_execution(file.execution_id, file.project_id)
    except ValueError as fault:
        raise RestoreRefused(str(fault)) from fault


def _check_space(layout: Layout, manifest: Manifest, plan: Restored) -> None:
    wanted = {*plan.created, *plan.replaced}
    needed = sum(file.size for file in manifest.files if file.project_id in wanted)
    if needed > shutil.disk_usage(layout.root).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(layout.root))


class _Restore:
    def __init__(self, layout: Layout, plan: Restored) -> None:
        self._layout = layout
        self._index = Index(layout.index)
        self._locks = Locks(layout.locks)
        self._removal = Removal(layout, self._index)
        self._audit = AuditFiles(layout)
        self._created = frozenset(plan.created)
        self._replaced = frozenset(plan.replaced)

    def run(self, backup: Archive) -> Restored:
        """Go through the backup once more and carry out the plan."""
        done: dict[str, list[str]] = {"created": [], "replaced": [], "kept": []}
        for project_id, group in groupby(backup.files(), lambda item: item[0].project_id):
            if project_id is None:
                self._folders_own(group)
                continue
            done[self._project(project_id, group)].append(project_id)
        return Restored(tuple(done["created"]), tuple(done["replaced"]), tuple(done["kept"]))

    def _folders_own(self, group: Iterator[tuple[File, Parts]]) -> None:
        """Put the key check and the audit log in place where there is none; what is there goes on."""
        ready = self._layout.unborn_project(AUDIT)
        files.remove_tree(ready)
        for file, parts in group:
            if not file.of_audit_log:
                self._key_check(b"".join(parts))
            elif not segment_numbers(self._layout.audit):
                files.make_directory(ready)
                files.write_parts(ready / file.path.partition("/")[2], parts)
        if ready.is_dir():
            with self._audit.holding_lock():
                if not segment_numbers(self._layout.audit):
                    ready.rename(self._layout.audit)
                    files.sync_directory(self._layout.root)
            files.remove_tree(ready)

    def _key_check(self, content: bytes) -> None:
        with self._locks.alone():
            if not self._layout.key_check.exists():
                files.write(self._layout.key_check, content, self._layout.staging)

    def _project(self, project_id: str, group: Iterator[tuple[File, Parts]]) -> str:
        """Carry out the plan for a project, unless others created or deleted it since: then it stays as it is."""
        if project_id not in self._created | self._replaced:
            return "kept"
        with self._locks.holding_project(project_id):
            there = os.path.lexists(self._layout.project(project_id))
            if there != (project_id in self._replaced):
                return "kept"
            ready = self._layout.unborn_project(project_id)
            try:
                files.remove_tree(ready)
                self._stage(ready, group)
                record = load_project(ready / METADATA, project_id)
                if record is None:
                    raise BackupDamaged(f"{project_id}: has no {METADATA}")
                begun = self._record(project_id, ready)
                if there:
                    self._replace(record, ready)
                else:
                    self._create(record, ready)
            except BaseException:
                with suppress(OSError):
                    files.remove_tree(ready)
                raise
            with suppress(OSError, StorageUnavailable):
                self._audit.append([replace(begun.entry, outcome=OK, start=begun.sequence, secrets_head=None)])
        return "replaced" if there else "created"

    def _record(self, project_id: str, ready: Path) -> AuditRecord:
        """Record the restore before it is made: from here on the secrets may be as old as those of the backup."""
        manifest = None
        with suppress(StoredDataDamaged):
            manifest = load(ready / SECRETS / MANIFEST, manifest_record_from_json)
        oldest = None if manifest is None else manifest.replaces if manifest.pending else manifest.manifest
        head = None if oldest is None else oldest.head
        entry = AuditEntry(OPERATOR, RESTORE_BACKUP, STARTED, Resource(project_id), secrets_head=head)
        return self._audit.append([entry])[0]

    def _stage(self, ready: Path, group: Iterator[tuple[File, Parts]]) -> None:
        files.make_directory(ready / SECRETS)
        files.make_directory(ready / EXECUTIONS)
        for file, parts in group:
            target = ready / file.path.partition("/")[2]
            files.make_directory(target.parent)
            files.write_parts(target, parts)

    def _create(self, record: ProjectRecord, ready: Path) -> None:
        home = self._layout.project(record.project.id)
        execution_ids = files.names_in(ready / EXECUTIONS)
        try:
            for digest in record.digests:
                self._index.put_key(digest, record.project.id)
            self._index.put_project(record.project.created_at, record.project.id)
            for execution_id in execution_ids:
                index_execution(self._index, ready, record.project.id, execution_id)
            ready.rename(home)
            files.sync_directory(self._layout.root)
        except BaseException:
            with suppress(OSError):
                home.rename(ready)
            for execution_id in execution_ids:
                self._removal.undo_execution(execution_id, [])
            self._removal.undo_project(record, [ready])
            raise

    def _replace(self, record: ProjectRecord, ready: Path) -> None:
        """Make it a later revision than the one that is there, so that nobody who read that one takes it for his."""
        project_id = record.project.id
        before = None
        with suppress(StoredDataDamaged):
            before = load_project(self._layout.metadata(project_id), project_id)
        if before is not None:
            project = replace(
                record.project,
                revision=max(record.project.revision, before.project.revision) + 1,
                updated_at=max(record.project.updated_at, before.project.updated_at),
            )
            files.write(ready / METADATA, dump(project_to_json(replace(record, project=project))))
        files.make_directory(self._layout.restores)
        waiting = self._layout.restores / project_id
        files.remove_tree(waiting)
        ready.rename(waiting)
        files.sync_directory(self._layout.restores)
        complete_replacement(self._layout, self._index, self._removal, project_id)
