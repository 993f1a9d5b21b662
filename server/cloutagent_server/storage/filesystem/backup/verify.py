"""Reading a backup to its end: whether this server can restore it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.filesystem import layout
from cloutagent_server.storage.filesystem.backup import archive
from cloutagent_server.storage.filesystem.backup.archive import Archive, BackupDamaged, File, Manifest
from cloutagent_server.storage.filesystem.backup.owners import Owners
from cloutagent_server.storage.filesystem.log_lines import header_of
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, project_from_json
from cloutagent_server.storage.filesystem.schema import parse
from cloutagent_server.storage.filesystem.secret_records import key_check_from_json, secrets_from_json

FaultOf = Callable[[SealedSecret], str | None]
Parts = Iterator[bytes]


class RestoreRefused(Exception):
    """The backup cannot be restored into this folder. Nothing was changed. The message tells why."""


def verify(path: Path, fault_of: FaultOf | None = None) -> Manifest:
    """Read a backup to its end: checksums, schemas, and whether its key is the one that `fault_of` opens with.

    Raises:
        BackupDamaged: It is not whole, holds something that this server does not read, or has a key or an execution
            in two projects.
        RestoreRefused: Its secrets were sealed with another key.
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        backup = Archive(stream)
        for _ in checked(backup, fault_of):
            pass
        return backup.manifest


def checked(backup: Archive, fault_of: FaultOf | None = None) -> Iterator[tuple[File, ProjectRecord | None]]:
    """Each file of a backup once it was read, with the record that it holds if it is a project's.

    The backup is whole when this comes to its end.

    Raises:
        BackupDamaged, RestoreRefused: As for `verify`.
    """
    owners = Owners()
    for file, parts in backup.files():
        try:
            record = _check(file, parts, owners, fault_of)
        except ValueError as fault:
            raise BackupDamaged(f"{file.path}: {fault}") from fault
        yield file, record


def _check(file: File, parts: Parts, owners: Owners, fault_of: FaultOf | None) -> ProjectRecord | None:
    match file.path.split("/"):
        case [project_id, layout.EXECUTIONS, execution_id, _]:
            created = header_of(_first_line(parts)).execution
            if (created.project_id, created.id) != (project_id, execution_id):
                raise ValueError("is another execution's")
            owners.add_execution(execution_id, project_id)
        case [project_id, layout.METADATA]:
            record = project_from_json(parse(b"".join(parts)))
            if record.project.id != project_id:
                raise ValueError("id is another project's")
            owners.add_keys(record)
            return record
        case [_, layout.SECRETS, layout.SEALED]:
            secrets_from_json(parse(b"".join(parts)))
        case [archive.KEY_CHECK]:
            sealed = key_check_from_json(parse(b"".join(parts)))
            if fault_of is not None and fault_of(sealed) is not None:
                raise RestoreRefused("ENCRYPTION_KEY is not the key that sealed the secrets of this backup")
    return None


def _first_line(parts: Parts) -> bytes:
    line = b""
    for part in parts:
        head, end, _ = part.partition(b"\n")
        line += head
        if len(line) > archive.MOST_WHOLE:
            raise ValueError(f"its first line has more than {archive.MOST_WHOLE} bytes")
        if end:
            return line
    raise ValueError("has no whole first line")
