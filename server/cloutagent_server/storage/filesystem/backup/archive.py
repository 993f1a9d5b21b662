"""The form of a backup: a compressed tar archive whose first member lists all others with their checksums.

It is read with distrust: only plain files under names that the store could have written, in the order and of the sizes
that the list tells, and nothing else, so that no archive leads a reader outside its folder or fills its memory.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import BinaryIO, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.storage.filesystem.layout import AUDIT, EXECUTIONS, LEDGER, LOG, METADATA, SECRETS
from cloutagent_server.storage.filesystem.schema import Fields, Schema, parse

KEY_CHECK: Final = ".key-check.json"
CHUNK: Final = 1 << 18
MOST_WHOLE: Final = 1 << 30
"""The most bytes of what is read whole: a record, the secrets of a project, a first line, the list of all files (some
5,000,000). Whoever writes refuses more, since it would be refused when it is read. What is read line by line may have
any size."""

_MANIFEST: Final = "manifest.json"
# The header of a larger member is one of GNU tar's: that of POSIX has no room for its size.
_MOST_IN_USTAR: Final = (8 << 30) - 1
# Version 1 had no audit log.
_SCHEMA: Final = Schema(2, {1: dict})
_MAX_END: Final = 1 << 20
_ID: Final = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PATH: Final = re.compile(
    rf"(?P<project>{_ID})/(?:{re.escape(METADATA)}|{re.escape(SECRETS)}/[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}"
    rf"|{EXECUTIONS}/(?P<execution>{_ID})/{re.escape(LOG)}|{LEDGER}/\d{{4}}-\d{{2}}\.jsonl)"
)
_READ_BY_LINE: Final = re.compile(rf"{re.escape(AUDIT)}/.*|{_ID}/(?:{EXECUTIONS}|{LEDGER})/.*")
_AUDIT: Final = re.compile(rf"{re.escape(AUDIT)}/\d{{6}}\.jsonl")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class BackupDamaged(Exception):
    """A file is not a backup, is not whole, or is one of a newer server. The message tells what is wrong."""


@dataclass(frozen=True, slots=True)
class File:
    """A file in a backup: its path relative to the data folder, its size in bytes, its SHA-256 in hex."""

    path: str
    size: int
    sha256: str

    @property
    def project_id(self) -> str | None:
        """The project whose file it is; None if it is the folder's own."""
        return None if self.path == KEY_CHECK or self.of_audit_log else self.path.partition("/")[0]

    @property
    def execution_id(self) -> str | None:
        """The execution whose event log it is; None if it is none."""
        found = _PATH.fullmatch(self.path)
        return None if found is None else found["execution"]

    @property
    def of_audit_log(self) -> bool:
        """Whether it is a segment of the audit log."""
        return _AUDIT.fullmatch(self.path) is not None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds: the folder's own files first, then those of each project together, its record first."""

    server_version: str
    created_at: datetime
    executions: bool
    files: tuple[File, ...]


def is_backed_up(path: str) -> bool:
    """Whether a path, relative to the data folder, is one that a backup may hold."""
    return path == KEY_CHECK or _AUDIT.fullmatch(path) is not None or _PATH.fullmatch(path) is not None


def size_fault(path: str, size: int) -> str | None:
    """Why a backup takes no file of this size under this path; None if it does."""
    if size <= MOST_WHOLE or _READ_BY_LINE.fullmatch(path) is not None:
        return None
    return f"is too large: it has {size} bytes, and may have {MOST_WHOLE} in a backup"


def write(target: BinaryIO, manifest: Manifest, contents: BinaryIO) -> None:
    """Write a backup; `contents` gives the contents of its files one after the other.

    Raises:
        BackupDamaged: They are too many for one backup.
    """
    head = json.dumps(_to_json(manifest), ensure_ascii=False, separators=(",", ":")).encode()
    if len(head) > MOST_WHOLE:
        raise BackupDamaged(
            f"its list of {len(manifest.files)} files is too large: {len(head)} bytes, and it may have {MOST_WHOLE}"
        )
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        modified = int(manifest.created_at.timestamp())
        archive.addfile(_member(_MANIFEST, len(head), modified), io.BytesIO(head))
        for file in manifest.files:
            archive.format = tarfile.USTAR_FORMAT if file.size <= _MOST_IN_USTAR else tarfile.GNU_FORMAT
            archive.addfile(_member(file.path, file.size, modified), contents)


class Archive:
    """A backup that is read once, from its beginning to its end."""

    def __init__(self, stream: BinaryIO) -> None:
        """Read the list of files.

        Raises:
            BackupDamaged: There is none that can be believed.
        """
        self._packed = gzip.GzipFile(fileobj=stream, mode="rb")
        size = self._header(_MANIFEST)
        if size > MOST_WHOLE:
            raise BackupDamaged("its manifest is too large")
        content = self._exactly(size)
        self._padding(size)
        try:
            self.manifest = _from_json(parse(content))
        except ValueError as fault:
            raise BackupDamaged(f"{_MANIFEST}: {fault}") from fault

    def files(self) -> Iterator[tuple[File, Iterator[bytes]]]:
        """Each file with its content in parts. The content was as listed once the next file, or the end, is reached.

        Raises:
            BackupDamaged: A file is not as listed.
        """
        for file in self.manifest.files:
            size = self._header(file.path)
            if size != file.size:
                raise BackupDamaged(f"{file.path}: has {size} bytes, not {file.size}")
            parts = self._content(file)
            yield file, parts
            for _ in parts:
                pass
            self._padding(size)
        self._end()

    def _content(self, file: File) -> Iterator[bytes]:
        digest, rest = hashlib.sha256(), file.size
        while rest:
            part = self._exactly(min(rest, CHUNK))
            rest -= len(part)
            digest.update(part)
            yield part
        if digest.hexdigest() != file.sha256:
            raise BackupDamaged(f"{file.path}: its checksum is wrong")

    def _header(self, path: str) -> int:
        try:
            member = tarfile.TarInfo.frombuf(self._exactly(tarfile.BLOCKSIZE), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            raise BackupDamaged(f"{path}: is missing") from None
        if member.name != path or member.type != tarfile.REGTYPE or member.size < 0:
            raise BackupDamaged(f"{path}: something else stands in its place")
        return member.size

    def _padding(self, size: int) -> None:
        self._exactly(-size % tarfile.BLOCKSIZE)

    def _end(self) -> None:
        rest = self._read(_MAX_END)
        if len(rest) < 2 * tarfile.BLOCKSIZE or any(rest) or self._read(1):
            raise BackupDamaged("it does not end where its manifest does")

    def _exactly(self, size: int) -> bytes:
        content = self._read(size)
        if len(content) < size:
            raise BackupDamaged("it is cut short")
        return content

    def _read(self, size: int) -> bytes:
        try:
            return self._packed.read(size) if size else b""
        except (gzip.BadGzipFile, zlib.error, EOFError) as fault:
            raise BackupDamaged(f"it is cut short or altered: {fault}") from fault


def _member(path: str, size: int, modified: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.size, member.mode, member.mtime = size, 0o600, modified
    return member


def _to_json(manifest: Manifest) -> dict[str, object]:
    return _SCHEMA.stamp(
        {
            "serverVersion": manifest.server_version,
            "createdAt": timestamps.to_text(manifest.created_at),
            "executions": manifest.executions,
            "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in manifest.files],
        }
    )


def _from_json(document: object) -> Manifest:
    fields = _SCHEMA.open(document)
    manifest = Manifest(
        fields.text("serverVersion"),
        fields.time("createdAt"),
        fields.truth("executions"),
        tuple(_file(each) for each in fields.items("files")),
    )
    fields.end()
    if len({file.path for file in manifest.files}) < len(manifest.files):
        raise ValueError("files: a path stands twice")
    if KEY_CHECK in {file.path for file in manifest.files[1:]}:
        raise ValueError(f"files: {KEY_CHECK} is not the first")
    seen = set()
    for project_id, group in groupby(manifest.files, lambda file: file.project_id):
        if project_id in seen:
            raise ValueError(f"files: those of {project_id} do not stand together")
        if project_id is not None and next(group).path != f"{project_id}/{METADATA}":
            raise ValueError(f"files: those of {project_id} do not begin with {METADATA}")
        seen.add(project_id)
    return manifest


def _file(fields: Fields) -> File:
    file = File(fields.text("path"), fields.whole("size"), fields.text("sha256"))
    fields.end()
    if not is_backed_up(file.path):
        raise ValueError(f"files: {file.path!r} is not a path of the store")
    if _SHA256.fullmatch(file.sha256) is None:
        raise ValueError(f"files: the checksum of {file.path} is none")
    if (fault := size_fault(file.path, file.size)) is not None:
        raise ValueError(f"files: {file.path} {fault}")
    return file
