"""Making a backup while writes go on."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage.filesystem import audit_files, files
from cloutagent_server.storage.filesystem.backup import archive
from cloutagent_server.storage.filesystem.backup.archive import CHUNK, Archive, File, Manifest
from cloutagent_server.storage.filesystem.backup.owners import Owners
from cloutagent_server.storage.filesystem.backup.verify import checked
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.layout import SEALED, SECRETS, Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.log_lines import read_header
from cloutagent_server.storage.filesystem.project_records import load_project
from cloutagent_server.storage.filesystem.secret_records import key_check_from_json, secrets_from_json


class BackupCancelled(Exception):
    """The backup was no longer wanted; nothing is left of it."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was made. `left_out` tells what is not in it since it is damaged or too large: where, and why."""

    path: Path
    manifest: Manifest
    left_out: tuple[StoredDataDamaged, ...]


def back_up(
    root: Path, target: Path, version: str, *, executions: bool = False, cancelled: Callable[[], bool] = lambda: False
) -> Backup:
    """Write a backup of the data folder `root` to the file `target`, which appears when it is whole. Blocks.

    Every project is copied under its lock, so it is as it was at one moment; projects that were there before the
    backup began are all in it, unless they are deleted meanwhile, damaged or too large. It has been read to its end
    before it appears: a backup that is there can be restored.

    Raises:
        BackupDamaged: The folder has too many files for one backup, or what was written cannot be read.
        OSError: The folder is not there, `target` is there already, or the medium refused.
        StorageUnavailable: Another process kept a lock for 30 seconds.
        BackupCancelled: `cancelled`, which is asked before each project and at each file that is read back, said so.
    """
    layout = Layout(root.absolute())
    layout.root.stat()
    files.make_directory(layout.locks)
    files.make_directory(target.parent.absolute())
    created_at = timestamps.now()
    with _new_file(target) as file, TemporaryFile(dir=target.parent) as spool:
        copy = _Copy(layout, Locks(layout.locks), spool)
        copy.key_check()
        copy.audit_log()
        for project_id in sorted(filter(is_id, files.names_in(layout.root))):
            if cancelled():
                raise BackupCancelled
            copy.project(project_id, executions)
        manifest = Manifest(version, created_at, executions, tuple(copy.files))
        spool.seek(0)
        archive.write(file, manifest, spool)
        file.seek(0)
        for _ in checked(Archive(file)):
            if cancelled():
                raise BackupCancelled
    return Backup(target, manifest, tuple(copy.left_out))


@contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """A file that appears as `target` after the block, durably; nothing is left if the block fails.

    Its lock tells that it is being written: one that nobody holds was left by a crash.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    temporary = files.temporary_path(target)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(descriptor)
            temporary.rename(target)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    files.sync_directory(target.parent)


@dataclass(slots=True)
class _Copy:
    """What was copied so far: the contents one after the other in `spool`, and the list of them."""

    layout: Layout
    locks: Locks
    spool: BinaryIO
    files: list[File] = field(default_factory=list)
    left_out: list[StoredDataDamaged] = field(default_factory=list)
    owners: Owners = field(default_factory=Owners)

    def key_check(self) -> None:
        """Copy what tells which key sealed the secrets."""
        path = self.layout.key_check
        try:
            if load(path, key_check_from_json) is not None:
                self._add(path, [path.read_bytes()])
        except StoredDataDamaged as fault:
            self.left_out.append(fault)

    def audit_log(self) -> None:
        """Copy the audit log, before the projects: so no record is about a later state than the one that is copied."""
        for number in audit_files.segment_numbers(self.layout.audit):
            path = audit_files.segment_path(self.layout.audit, number)
            self._add(path, (line + b"\n" for line in audit_files.committed_lines(path)))

    def project(self, project_id: str, executions: bool) -> None:
        """Copy a project, if it is still there."""
        try:
            with self.locks.holding_project(project_id):
                contents = self._record_and_secrets(project_id)
        except StoredDataDamaged as fault:
            self.left_out.append(fault)
            return
        for path, content in contents:
            self._add(path, [content])
        if contents:
            ledger = self.layout.ledger(project_id)
            for name in sorted(files.names_in(ledger)):
                if archive.is_backed_up(self._relative(ledger / name)):
                    self._ledger(ledger / name)
        if executions and contents:
            for execution_id in sorted(filter(is_id, files.names_in(self.layout.executions(project_id)))):
                try:
                    self._execution(self.layout.log(project_id, execution_id), project_id, execution_id)
                except StoredDataDamaged as fault:
                    self.left_out.append(fault)

    def _record_and_secrets(self, project_id: str) -> list[tuple[Path, bytes]]:
        path = self.layout.metadata(project_id)
        record = load_project(path, project_id)
        if record is None:
            return []
        directory = self.layout.project(project_id) / SECRETS
        # The sealed values before what may be derived from them.
        names = sorted(files.names_in(directory), key=lambda name: (name != SEALED, name))
        paths = [path, *(directory / name for name in names if self._is_wanted(directory / name))]
        for each in paths:
            if (fault := archive.size_fault(self._relative(each), each.stat().st_size)) is not None:
                raise StoredDataDamaged(str(each), fault)
        load(self.layout.secrets(project_id), secrets_from_json)
        contents = [(each, files.read(each) or b"") for each in paths]
        try:
            self.owners.add_keys(record)
        except ValueError as fault:
            raise StoredDataDamaged(str(path), str(fault)) from fault
        return contents

    def _is_wanted(self, path: Path) -> bool:
        return archive.is_backed_up(self._relative(path)) and stat.S_ISREG(path.lstat().st_mode)

    def _ledger(self, path: Path) -> None:
        """Copy a month of the ledger up to its last whole line."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            files.check_trust(path, descriptor)
            self._add(path, _parts(descriptor, _end_of_lines(descriptor)))
        except StoredDataDamaged as fault:
            self.left_out.append(fault)
        finally:
            os.close(descriptor)

    def _execution(self, path: Path, project_id: str, execution_id: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as fault:
            raise files.unreadable(path, fault) from fault
        try:
            files.check_trust(path, descriptor)
            header = read_header(descriptor, path, execution_id)
            if header.execution.project_id != project_id:
                raise StoredDataDamaged(str(path), "first line: is of another project")
            if header.size > archive.MOST_WHOLE:
                raise StoredDataDamaged(str(path), f"first line: has more than {archive.MOST_WHOLE} bytes")
            try:
                self.owners.add_execution(execution_id, project_id)
            except ValueError as fault:
                raise StoredDataDamaged(str(path), str(fault)) from fault
            self._add(path, _parts(descriptor, _end_of_lines(descriptor)))
        finally:
            os.close(descriptor)

    def _add(self, path: Path, parts: Iterable[bytes]) -> None:
        digest, size = hashlib.sha256(), 0
        for part in parts:
            self.spool.write(part)
            digest.update(part)
            size += len(part)
        self.files.append(File(self._relative(path), size, digest.hexdigest()))

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.layout.root))


def _end_of_lines(descriptor: int) -> int:
    """Behind the last whole line of a file that may be growing."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - CHUNK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _parts(descriptor: int, end: int) -> Iterator[bytes]:
    start = 0
    while start < end:
        part = os.pread(descriptor, min(CHUNK, end - start), start)
        if not part:
            return
        start += len(part)
        yield part
