"""Whether every execution's log is whole, and what is derived from it agrees with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.doctor.findings import BY_REPAIR, FROM_BACKUP, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.index import ExecutionEntry, hash_of
from cloutagent_server.storage.filesystem.layout import LOG, STATE
from cloutagent_server.storage.filesystem.lines import lines_between
from cloutagent_server.storage.filesystem.locks import sharing_file
from cloutagent_server.storage.filesystem.log import read_execution
from cloutagent_server.storage.filesystem.log_lines import LogHeader, read_header
from cloutagent_server.storage.filesystem.outcome_records import Snapshot, snapshot_from_json

# How long an append is waited for.
_APPEND_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Log:
    """A log that was read from its first line to its last.

    Attributes:
        execution: What its events lead to.
        snapshot: What state.json holds, None if there is none.
        at_snapshot: What the events lead to where the snapshot was taken; None if no line ends there.
        snapshot_fault: Why state.json cannot be read.
        size: Up to where the log was read, in bytes.
        torn: Whether an incomplete line follows the last.
    """

    execution: Execution
    snapshot: Snapshot | None
    at_snapshot: Execution | None
    snapshot_fault: str | None
    size: int
    torn: bool


def check_executions(folder: Folder) -> Iterable[Finding]:
    """Every events.jsonl from its header to its end, the state.json beside it, and its entries in the index."""
    indexed = folder.has_index()
    for project_id in folder.project_ids():
        for execution_id in folder.execution_ids(project_id):
            yield from _check(folder, project_id, execution_id, indexed)


def _check(folder: Folder, project_id: str, execution_id: str, indexed: bool) -> Iterator[Finding]:
    directory = folder.layout.execution(project_id, execution_id)
    try:
        log = _read(directory, project_id)
    except FileNotFoundError:
        missing = partial(_has_no_log, directory)
        yield Finding(Severity.ERROR, folder.relative(directory), f"has no {LOG}", FROM_BACKUP, still=missing)
        return
    except StoredDataDamaged as fault:
        yield folder.damaged(fault)
        return
    if log.snapshot is not None and log.snapshot.log_size > log.size:
        yield Finding(
            Severity.ERROR,
            folder.relative(directory / LOG),
            f"is shorter than {STATE} tells: it was cut",
            f"{FROM_BACKUP}; or remove {STATE} if the log is right",
        )
        return
    yield from _torn(folder, directory, log)
    yield from _state(folder, directory, log)
    if indexed:
        yield from _entries(folder, directory, log.execution)


def _read(directory: Path, project_id: str) -> _Log:
    path = directory / LOG
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise files.unreadable(path, fault) from fault
    try:
        files.check_trust(path, descriptor)
        header = read_header(descriptor, path, directory.name)
        if header.execution.project_id != project_id:
            raise StoredDataDamaged(str(path), "first line: is of another project")
        snapshot, snapshot_fault = _read_snapshot(directory / STATE, header.execution)
        # The snapshot first, then the size: so a log that grows meanwhile is never behind its snapshot.
        size = os.fstat(descriptor).st_size
        return _fold(descriptor, path, header, size, snapshot, snapshot_fault)
    finally:
        os.close(descriptor)


def _read_snapshot(path: Path, created: Execution) -> tuple[Snapshot | None, str | None]:
    try:
        return load(path, lambda document: snapshot_from_json(document, created)), None
    except StoredDataDamaged as fault:
        return None, fault.fault


def _fold(
    descriptor: int,
    path: Path,
    header: LogHeader,
    size: int,
    snapshot: Snapshot | None,
    snapshot_fault: str | None,
) -> _Log:
    execution, end = header.execution, header.size
    at_snapshot = execution if snapshot is not None and snapshot.log_size == end else None
    for sequence, line in enumerate(lines_between(descriptor, end, size), header.first_sequence):
        try:
            execution = execution.after(event_json.decode(header.event_of(sequence, line)))
        except (ValueError, RecursionError) as fault:
            raise StoredDataDamaged(str(path), f"{header.place_of(sequence)}: {fault}") from fault
        end += len(line) + 1
        if snapshot is not None and snapshot.log_size == end:
            at_snapshot = execution
    if end < size and execution.status.terminal:
        raise StoredDataDamaged(str(path), "something follows the last event")
    return _Log(execution, snapshot, at_snapshot, snapshot_fault, size, torn=end < size)


def _has_no_log(directory: Path) -> bool:
    return directory.is_dir() and not (directory / LOG).exists()


def _has_no_state(directory: Path) -> bool:
    return _at_rest(directory, lambda: not (directory / STATE).exists())


def _at_rest(directory: Path, wrong: Callable[[], bool]) -> bool:
    """Whether that is wrong with an execution while nobody appends to it; False if it was removed.

    Writers may be kept out meanwhile: with one that takes long to append it is left open, and so False.
    """
    try:
        with sharing_file(directory / LOG, _APPEND_SECONDS):
            return wrong()
    except StorageUnavailable:
        return False
    except OSError:
        return (directory / LOG).exists() and wrong()


def _torn(folder: Folder, directory: Path, log: _Log) -> Iterator[Finding]:
    if log.torn:
        yield Finding(
            Severity.WARNING,
            folder.relative(directory / LOG),
            "ends with an incomplete line: a server was stopped while it wrote",
            "start the server: the next event of the execution takes its place",
            still=partial(_ends_in_mid_line, directory / LOG),
        )


def _ends_in_mid_line(path: Path) -> bool:
    """Whether a log ends in the middle of a line while nobody appends to it."""
    try:
        with sharing_file(path, _APPEND_SECONDS) as descriptor:
            size = os.fstat(descriptor).st_size
            return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    except (OSError, StorageUnavailable):
        return False


def _state(folder: Folder, directory: Path, log: _Log) -> Iterator[Finding]:
    fault, still = log.snapshot_fault, None
    if fault is None and log.snapshot is None and log.execution.status is not Status.QUEUED:
        # An execution gets its state when it starts, and a moment after its last event.
        fault, still = "is missing", partial(_has_no_state, directory)
    elif fault is None and log.snapshot is not None and log.at_snapshot != log.snapshot.execution:
        fault = f"does not agree with {LOG}"
    if fault is not None:
        rebuild = partial(_rebuild_state, directory)
        yield Finding(
            Severity.WARNING, folder.relative(directory / STATE), fault, BY_REPAIR, still=still, repair=rebuild
        )


def _rebuild_state(directory: Path) -> None:
    """Let the store derive the state from the log again, as it does when there is none."""
    (directory / STATE).unlink(missing_ok=True)
    read_execution(directory)


def _entries(folder: Folder, directory: Path, execution: Execution) -> Iterator[Finding]:
    fault = _entry_fault(folder, execution)
    if fault is not None:
        yield Finding(
            Severity.WARNING,
            folder.relative(directory),
            fault,
            BY_REPAIR,
            still=lambda: _at_rest(directory, lambda: _entry_fault(folder, _now(directory, execution)) is not None),
            repair=partial(_put_entries, folder, directory),
        )


def _now(directory: Path, before: Execution) -> Execution:
    try:
        return _read(directory, before.project_id).execution
    except (StoredDataDamaged, FileNotFoundError):
        return before


def _entry_fault(folder: Folder, execution: Execution) -> str | None:
    key = None if execution.idempotency is None else execution.idempotency.key
    place = paging.position(execution.created_at, execution.id)
    wanted = ExecutionEntry(execution.project_id, place, None if key is None else hash_of(key))
    try:
        entry = folder.index.find_execution(execution.id)
        known = key is None or folder.index.find_idempotent(execution.project_id, key) == execution.id
    except StoredDataDamaged as fault:
        return f"its entry in the index is damaged: {fault.fault}"
    if entry != wanted:
        return "is not in the index" if entry is None else "its entry in the index is wrong"
    if not folder.index.has_execution_place(wanted):
        return "is not in the list of its project's executions"
    if not known:
        return "its idempotency key does not lead to it"
    marked = folder.index.is_unfinished(execution.id)
    if marked and execution.status.terminal:
        return "has ended and is marked as unfinished"
    if not marked and not execution.status.terminal:
        return "has not ended and is not marked as unfinished"
    return None


def _put_entries(folder: Folder, directory: Path) -> None:
    execution = read_execution(directory)
    if execution is None:
        return
    folder.index.remove_execution(execution.id)
    key = None if execution.idempotency is None else execution.idempotency.key
    folder.index.put_execution(execution.project_id, execution.id, execution.created_at, key)
    if execution.status.terminal:
        folder.index.set_finished(execution.id)
