"""state.json beside a log: what it tells of the execution, and how far that is believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.storage.filesystem import files, layout
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.lines import line_ending_at
from cloutagent_server.storage.filesystem.log_lines import LogHeader
from cloutagent_server.storage.filesystem.outcome_records import Snapshot, snapshot_from_json, snapshot_to_json

_log: Final = structlog.get_logger(__name__)


def believed_snapshot(directory: Path, log: int, header: LogHeader, size: int) -> Snapshot | None:
    """The snapshot in `directory`, if it fits the first `size` bytes of the open log there; None otherwise.

    Raises:
        StoredDataDamaged: The log is shorter than the snapshot tells.
    """
    try:
        snapshot = load(directory / layout.STATE, lambda document: snapshot_from_json(document, header.execution))
    except StoredDataDamaged as fault:
        _log.warning("snapshot_rebuilt", location=fault.location, fault=fault.fault)
        return None
    # The size as it is now: the log may have grown since `size` was taken, and the snapshot with it.
    if snapshot is not None and snapshot.log_size > os.fstat(log).st_size:
        raise StoredDataDamaged(str(directory / layout.LOG), f"is shorter than {layout.STATE} tells: it was cut")
    if snapshot is None or not header.size <= snapshot.log_size <= size:
        return None
    sequence = snapshot.execution.last_sequence
    if sequence < header.first_sequence:
        return snapshot if snapshot.log_size == header.size else None
    last_line = line_ending_at(log, snapshot.log_size)
    try:
        header.event_of(sequence, last_line or b"")
    except ValueError:
        return None
    return snapshot


def save_snapshot(directory: Path, snapshot: Snapshot, staging: Path | None = None) -> None:
    """Save the snapshot of a log whose part that it tells of is durable. `staging` is that of `files.write`.

    A medium that refuses it is no obstacle, for whoever needs the snapshot derives it from the log.
    """
    path = directory / layout.STATE
    try:
        files.write(path, dump(snapshot_to_json(snapshot)), staging)
    except (OSError, StoredDataDamaged, StorageUnavailable) as fault:
        _log.warning("snapshot_not_saved", location=str(path), fault=repr(fault))
