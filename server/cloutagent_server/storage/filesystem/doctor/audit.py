"""Whether every record of the audit log is whole and follows the one before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from cloutagent_server.domain.audit import EMPTY, AuditHead, SecretsHeads
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem import audit_files
from cloutagent_server.storage.filesystem.audit_json import Snapshot, decode, snapshot_from_json
from cloutagent_server.storage.filesystem.doctor.findings import BY_REPAIR, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.documents import load

# Findings about one segment; more would tell nothing new.
_MOST: Final = 20
_REMEDY: Final = "find out who changed it; a backup may hold the log as it was"


def check_audit(folder: Folder) -> Iterable[Finding]:
    """Every segment of the log, line by line, and what is noted beside full ones."""
    walk = _Walk(folder)
    for number in audit_files.segment_numbers(folder.layout.audit):
        yield from islice(walk.segment(number), _MOST)


class _Walk:
    """Goes through the log from its beginning. `_head` is the last record that can be read."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._head, self._heads = EMPTY, SecretsHeads()
        self._number = 0

    def segment(self, number: int) -> Iterator[Finding]:
        path = audit_files.segment_path(self._folder.layout.audit, number)
        if number != self._number + 1:
            yield self._finding(path, "the segments before it were removed")
        self._number = number
        unreadable, size = False, 0
        findings: list[Finding] = []
        for line_number, line in enumerate(audit_files.committed_lines(path), 1):
            size += len(line) + 1
            try:
                record = decode(line)
            except ValueError as fault:
                findings.append(self._finding(path, f"line {line_number}: {fault}"))
                unreadable = True
                continue
            # What follows a line that cannot be read may be chained on what it said before it was altered.
            if (record.sequence, record.previous) != (self._head.sequence + 1, self._head.hash) and not (
                unreadable and record.sequence > self._head.sequence
            ):
                findings.append(self._finding(path, f"line {line_number}: {_gap(self._head, record.sequence)}"))
            unreadable = False
            self._head = record.head
            self._heads.apply(record)
        yield from findings
        yield from self._snapshot(number, size)

    def _snapshot(self, number: int, size: int) -> Iterator[Finding]:
        path = audit_files.snapshot_path(self._folder.layout.audit, number)
        try:
            noted = load(path, snapshot_from_json)
            if noted is None or noted == Snapshot(size, self._head, self._heads):
                return
            fault = "does not tell what the records do"
        except StoredDataDamaged as damage:
            fault = damage.fault
        remove = partial(path.unlink, missing_ok=True)
        yield Finding(Severity.ERROR, self._folder.relative(path), fault, BY_REPAIR, repair=remove)

    def _finding(self, path: Path, fault: str) -> Finding:
        return Finding(Severity.ERROR, self._folder.relative(path), fault, _REMEDY)


def _gap(head: AuditHead, sequence: int) -> str:
    if sequence > head.sequence + 1:
        return f"record {sequence} follows record {head.sequence}: what was between them was removed"
    if sequence <= head.sequence:
        return f"record {sequence} follows record {head.sequence}: they do not stand in their order"
    return f"record {sequence} does not follow the record before it: that one was altered"
