"""The audit log on disk: segments of JSON lines that are only ever appended to. Everything here blocks.

A record is durable before it counts: until then its lines are marked as not committed, so that no reader takes what a
refused write may yet take back. Whoever appends finds out first what other processes appended. A last line that a
crash cut short is cut off; any other line that cannot be read stays, is reported by the doctor, and is passed over:
the next record chains on the last one that can be read.

Beside a full segment stands what it, with all before it, says of the secrets of projects: so a start reads one segment.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.audit import (
    EMPTY,
    AuditEntry,
    AuditHead,
    AuditRecord,
    SecretsHeads,
    chained,
)
from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.secret import SecretsHead
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.audit_json import (
    Snapshot,
    decode,
    encode,
    snapshot_from_json,
    snapshot_to_json,
)
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.lines import line_ending_at, lines_between
from cloutagent_server.storage.filesystem.locks import committed_size, holding, uncommitted

SEGMENT_BYTES: Final = 8 * 1024 * 1024
SEGMENT: Final = re.compile(r"(\d{6})\.jsonl")
SNAPSHOT: Final = re.compile(r"(\d{6})\.heads\.json")

_log = structlog.get_logger(__name__)


class AuditFiles:
    """The audit log of one folder, for any thread. Other processes, and other objects of this one, may use it too."""

    def __init__(self, layout: Layout, segment_bytes: int = SEGMENT_BYTES) -> None:
        """A segment takes no more records once it has `segment_bytes`."""
        self._directory = layout.audit
        self._staging = layout.staging
        self._lock = layout.locks / "audit.lock"
        self._segment_bytes = segment_bytes
        self._reading = threading.Lock()
        self._prepared = False
        self._forget()

    def _forget(self) -> None:
        """Begin in front of the log. `_sound` is where the last readable record of the present segment ends."""
        self._number, self._offset, self._sound = 0, 0, 0
        self._zeros = True
        self._head, self._heads = EMPTY, SecretsHeads()

    def head(self) -> AuditHead:
        """The last record."""
        with self._reading:
            self._catch_up()
            return self._head

    def secrets_head(self, project_id: str) -> SecretsHead | None:
        """The newest state of a project's secrets that a record tells."""
        with self._reading:
            self._catch_up()
            return self._heads.of(project_id)

    def append(self, entries: Sequence[AuditEntry]) -> Sequence[AuditRecord]:
        """Add records of these entries, all or none, durably.

        Raises:
            OSError, StorageUnavailable: The medium refused, or another process kept the lock for 30 seconds.
        """
        with self.holding_lock():
            with self._reading:
                self._catch_up()
                self._cut_tail()
                if self._offset >= self._segment_bytes:
                    self._note_full_segment()
                    self._number, self._offset, self._sound, self._zeros = self._number + 1, 0, 0, True
                number, offset, head = max(self._number, 1), self._offset, self._head
            records = []
            for entry in entries:
                records.append(chained(entry, head, timestamps.now()))
                head = records[-1].head
            self._write(segment_path(self._directory, number), offset, b"".join(map(encode, records)))
            # They are stored, whether they can be read back now or not: the next look does.
            with self._reading, suppress(OSError):
                self._catch_up()
        return records

    def read(self, after_sequence: int, limit: int) -> Sequence[AuditRecord]:
        """Up to `limit` readable records after a sequence number, in their order."""
        found: list[AuditRecord] = []
        numbers = segment_numbers(self._directory)
        while len(numbers) > 1 and _first_sequence(segment_path(self._directory, numbers[1])) <= after_sequence + 1:
            numbers.pop(0)
        for number in numbers:
            for line in committed_lines(segment_path(self._directory, number)):
                with suppress(ValueError):
                    record = decode(line)
                    if record.sequence > after_sequence:
                        found.append(record)
                if len(found) == limit:
                    return found
        return found

    @contextmanager
    def holding_lock(self) -> Iterator[None]:
        """Keep everybody else from appending. Raises StorageUnavailable if somebody does so for 30 seconds."""
        if not self._prepared or not self._directory.is_dir():
            files.make_directory(self._directory)
            self._prepared = True
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
        try:
            with holding(descriptor, fcntl.LOCK_EX, self._lock):
                yield
        finally:
            os.close(descriptor)

    def _write(self, path: Path, offset: int, content: bytes) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, files.FILE_MODE)
        try:
            if offset == 0:
                files.sync_directory(self._directory)
            with uncommitted(descriptor, offset, path):
                try:
                    files.write_all(descriptor, content)
                    os.fsync(descriptor)
                except BaseException:
                    with suppress(OSError):
                        os.ftruncate(descriptor, offset)
                    raise
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        """Read what was committed since the last time."""
        present = segment_path(self._directory, self._number)
        following = segment_path(self._directory, self._number + 1)
        size = _size(present)
        if self._number and size == self._offset and not following.exists():
            return
        if size is None or size < self._offset:
            if self._number:
                _log.error("audit_log_cut", location=str(present), sequence=self._head.sequence)
            self._forget()
        if not self._number:
            self._take_snapshot()
        for number in segment_numbers(self._directory):
            if number == self._number:
                self._read_on(number)
            elif number > self._number:
                self._number, self._offset, self._sound, self._zeros = number, 0, 0, True
                self._read_on(number)

    def _read_on(self, number: int) -> None:
        path = segment_path(self._directory, number)
        for line in committed_lines(path, self._offset):
            self._offset += len(line) + 1
            try:
                record = decode(line)
            except ValueError as fault:
                self._zeros = self._zeros and b"\0" in line
                _log.error("audit_record_damaged", location=str(path), offset=self._offset, fault=str(fault))
                continue
            self._sound, self._zeros = self._offset, True
            self._head = record.head
            self._heads.apply(record)

    def _cut_tail(self) -> None:
        """Remove what a crash left of a write behind the last record: part of a line, or lines that hold zeros."""
        path = segment_path(self._directory, self._number)
        size = _size(path)
        end = self._sound if self._zeros else self._offset
        if size is None or size <= end:
            return
        _log.warning("audit_tail_cut", location=str(path), bytes=size - end)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._offset = end

    def _note_full_segment(self) -> None:
        """It can be found from the records too, so a medium that refuses it is no obstacle."""
        path = snapshot_path(self._directory, self._number)
        try:
            content = dump(snapshot_to_json(Snapshot(self._offset, self._head, self._heads)))
            files.write(path, content, self._staging)
        except (OSError, CloutAgentError) as fault:
            _log.warning("audit_snapshot_not_written", location=str(path), fault=repr(fault))

    def _take_snapshot(self) -> None:
        """Begin behind the newest full segment, if what stands beside it fits its last record."""
        for number in reversed(segment_numbers(self._directory)):
            try:
                snapshot = load(snapshot_path(self._directory, number), snapshot_from_json)
            except CloutAgentError as fault:
                _log.error("audit_snapshot_damaged", segment=number, fault=repr(fault))
                continue
            if snapshot is not None and self._fits(number, snapshot):
                self._number = number
                self._offset = self._sound = snapshot.size
                self._head, self._heads = snapshot.head, snapshot.heads
                return

    def _fits(self, number: int, snapshot: Snapshot) -> bool:
        try:
            descriptor = os.open(segment_path(self._directory, number), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            size = os.fstat(descriptor).st_size
            line = line_ending_at(descriptor, snapshot.size) if snapshot.size <= size else None
            return line is not None and decode(line).head == snapshot.head
        except ValueError:
            return False
        finally:
            os.close(descriptor)


def is_name_of_audit_log(name: str) -> bool:
    """Whether a file of this name belongs into the folder of the audit log."""
    return SEGMENT.fullmatch(name) is not None or SNAPSHOT.fullmatch(name) is not None


def segment_path(directory: Path, number: int) -> Path:
    """Where a segment lies; they count from 1."""
    return directory / f"{number:06d}.jsonl"


def snapshot_path(directory: Path, number: int) -> Path:
    """Where it is noted what the log amounts to at the end of a segment."""
    return directory / f"{number:06d}.heads.json"


def segment_numbers(directory: Path) -> list[int]:
    """The segments that are there, in order."""
    return sorted(int(found.group(1)) for name in files.names_in(directory) if (found := SEGMENT.fullmatch(name)))


def committed_lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """The whole lines of a segment from an offset on, but for those that are still being written."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        yield from lines_between(descriptor, start, committed_size(descriptor))
    finally:
        os.close(descriptor)


def _first_sequence(path: Path) -> int:
    for line in committed_lines(path):
        with suppress(ValueError):
            return decode(line).sequence
    return 1 << 62


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
