"""What a loss of power leaves at the end of a log: bytes that were never written, which read as zeros."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem import layout
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.lines import lines_between
from cloutagent_server.storage.filesystem.locks import holding
from cloutagent_server.storage.filesystem.log_lines import header_of
from cloutagent_server.storage.filesystem.outcome_records import snapshot_from_json

_log = structlog.get_logger(__name__)


def cut_lost_tail(directory: Path) -> bool:
    """Cut the log in `directory` where its first line with a zero byte begins. Gives whether there was such a line.

    A file system may lose some of the text deltas that were not yet durable and keep later ones; what it lost reads as
    zeros, which JSON never holds. What stands in front of the end that the snapshot knows was durable, so zeros there
    are damage and nothing is cut. Blocks.

    Raises:
        OSError: The medium refused.
    """
    path = directory / layout.LOG
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with holding(descriptor, fcntl.LOCK_EX, path):
            size = os.fstat(descriptor).st_size
            end = _first_zeros(descriptor, size)
            if end is None or end < _durable_size(descriptor, directory, size):
                return False
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _log.warning("log_cut_after_power_loss", location=str(path), size=end, cut=size - end)
    return True


def _first_zeros(descriptor: int, size: int) -> int | None:
    """Where the first whole line with a zero byte begins."""
    start = 0
    for line in lines_between(descriptor, 0, size):
        if b"\0" in line:
            return start
        start += len(line) + 1
    return None


def _durable_size(descriptor: int, directory: Path, size: int) -> int:
    header = next(lines_between(descriptor, 0, size), b"")
    try:
        created = header_of(header).execution
        snapshot = load(directory / layout.STATE, lambda document: snapshot_from_json(document, created))
    except (ValueError, StoredDataDamaged):
        return size
    return len(header) + 1 if snapshot is None else snapshot.log_size
