"""Trimming: the log of an ended execution is replaced by one that holds its last event alone."""

from __future__ import annotations

import fcntl
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage.base import History
from cloutagent_server.storage.changes import folded
from cloutagent_server.storage.filesystem import files, layout
from cloutagent_server.storage.filesystem.lines import lines_between
from cloutagent_server.storage.filesystem.locks import holding
from cloutagent_server.storage.filesystem.log_lines import LogHeader, header_line, is_trimmed, read_header, sealed
from cloutagent_server.storage.filesystem.outcome_records import Snapshot
from cloutagent_server.storage.filesystem.snapshots import save_snapshot


def history_in(directory: Path) -> History | None:
    """What is known of a log without reading it; None if there is none. For an execution that has ended."""
    try:
        descriptor = os.open(directory / layout.LOG, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        ended_at = datetime.fromtimestamp(status.st_mtime, UTC)
        return History(directory.name, ended_at, status.st_size, is_trimmed(descriptor))
    finally:
        os.close(descriptor)


def digest_in(directory: Path) -> LogDigest | None:
    """The digest of a trimmed log as it was before; None if it was not trimmed, has none, or is not there.

    Raises:
        StoredDataDamaged: The log cannot be read.
    """
    path = directory / layout.LOG
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise files.unreadable(path, fault) from fault
    try:
        files.check_trust(path, descriptor)
        return read_header(descriptor, path, directory.name).whole
    finally:
        os.close(descriptor)


def trim(directory: Path, staging: Path) -> bool:
    """Leave the last event alone in the log in `directory`. False if it has not ended, is not there, or has one event.

    The digest of the whole log stays in the first line, so that the receipt can tell it for as long as there is one.
    New files are prepared in `staging`, where every start clears what a crash left.

    The new log appears by rename; who has the old one open goes on reading it. The snapshot goes first and comes back
    last: in between there is none, and it is derived from the log.

    Raises:
        StoredDataDamaged: The log cannot be read. It stays as it is.
        OSError: The medium refused. The log stays as it is.
    """
    path = directory / layout.LOG
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        with holding(descriptor, fcntl.LOCK_EX, path):
            status = os.fstat(descriptor)
            if is_trimmed(descriptor) or not path.exists() or path.stat().st_ino != status.st_ino:
                return False
            header = read_header(descriptor, path, directory.name)
            trimmed = _trimmed(descriptor, path, header, status.st_size)
            if trimmed is None:
                return False
            execution, content = trimmed
            (directory / layout.STATE).unlink(missing_ok=True)
            # Beside the new log the old snapshot would tell of a log that was cut.
            files.sync_directory(directory)
            files.write(path, content, staging)
            save_snapshot(directory, Snapshot(len(content), execution), staging)
            return True
    finally:
        os.close(descriptor)


def _trimmed(descriptor: int, path: Path, header: LogHeader, size: int) -> tuple[Execution, bytes] | None:
    """What the log leads to, and the content of the trimmed one; None if there is nothing to trim."""
    execution = before = header.execution
    last, digest, size_of_events = b"", hashlib.sha256(), 0
    for sequence, line in enumerate(lines_between(descriptor, header.size, size), header.first_sequence):
        try:
            last = header.event_of(sequence, line)
            digest.update(last + b"\n")
            size_of_events += len(last) + 1
            before, execution = execution, folded(execution, [event_json.decode(last)])
        except (ValueError, RecursionError) as fault:
            raise StoredDataDamaged(str(path), f"{header.place_of(sequence)}: {fault}") from fault
    if not execution.status.terminal or before.last_sequence == header.execution.last_sequence:
        return None
    whole = LogDigest(digest.hexdigest(), header.first_sequence, execution.last_sequence, size_of_events)
    return execution, header_line(header.execution, before, whole) + sealed(last)
