"""One execution's event log: a file that only grows, and what its events have made of the execution.

The first line tells what the execution was created with, every further line is an event: the event with sequence
number n is line n of those. state.json beside it is a snapshot that spares reading the log from its beginning; it is
never believed beyond what the log holds. It is never written before what it tells is durable in the log, so a log that
is shorter was cut: that is damage, and both files stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import CursorOutOfRange, ExecutionNotFound, StoredDataDamaged
from cloutagent_server.domain.events import Event, StoredEvent, StoredEvents, TextDelta
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.storage.changes import appended, folded
from cloutagent_server.storage.filesystem import files, layout
from cloutagent_server.storage.filesystem.batches import Batches
from cloutagent_server.storage.filesystem.lines import LineIndex, in_memory, lines_after, lines_between
from cloutagent_server.storage.filesystem.locks import committed_size, holding, uncommitted
from cloutagent_server.storage.filesystem.log_lines import header_line, read_header
from cloutagent_server.storage.filesystem.outcome_records import Snapshot
from cloutagent_server.storage.filesystem.recent_events import MOST_EVENTS, RecentEvents
from cloutagent_server.storage.filesystem.snapshots import believed_snapshot, save_snapshot

_BATCH_BYTES: Final = 1 << 20
_AT_HAND: Final = 512
_AT_HAND_BYTES: Final = 1 << 17


def write_new(directory: Path, execution: Execution) -> None:
    """Write the log of an execution without events, in a directory that nobody else knows of yet."""
    files.write_parts(directory / layout.LOG, [header_line(execution)])


def read_execution(directory: Path) -> Execution | None:
    """The execution whose log lies in `directory`, None if there is none. Leaves nothing open.

    Raises:
        StoredDataDamaged: The log cannot be read.
    """
    try:
        log = ExecutionLog(directory)
    except FileNotFoundError:
        return None
    log.close()
    return log.execution


class LogReplaced(Exception):
    """Another file stands in the place of an open log: it was trimmed, or restored."""


class ExecutionLog:
    """An open log. Methods block and may be called from any thread.

    Writers exclude each other by a lock on the file. Readers wait for none: a writer marks the end of the file as not
    yet committed while it may still take it back, and whoever reads meanwhile reads what stands in front of that.
    """

    def __init__(self, directory: Path, batches: Batches | None = None) -> None:
        """Open the log in `directory`. What is read of it for several watchers is kept in `batches`.

        Raises:
            FileNotFoundError: There is none.
            StoredDataDamaged: It cannot be read.
        """
        self._directory = directory
        self._path = directory / layout.LOG
        self._appending = threading.Lock()
        self._changing = threading.Lock()
        self._reading = threading.Lock()
        self._noting = threading.Lock()
        self._recent = RecentEvents()
        self._batches = Batches() if batches is None else batches
        self._writer: int | None = None
        self._unsynced = False
        self._writing = False
        try:
            self._reader = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(self._path) from None
        except OSError as fault:
            raise files.unreadable(self._path, fault) from fault
        try:
            files.check_trust(self._path, self._reader)
            self._inode = os.fstat(self._reader).st_ino
            self._header = read_header(self._reader, self._path, directory.name)
            self._size = self._header.size
            self._lines = LineIndex(self._size)
            self._execution = self._header.execution
            known = self._resume(committed_size(self._reader))
            if known is not self._execution.status and self._size > self._header.size:
                self._refresh_snapshot()
        except BaseException:
            os.close(self._reader)
            raise

    @property
    def execution(self) -> Execution:
        """The execution after all events that this process knows of. Does not block."""
        return self._execution

    def recent(self, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """Events after `after_sequence` from memory; none if they are not all there. Does not block."""
        return self._recent.after(after_sequence, limit)

    def at_hand(self, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """Up to `limit` known events after `after_sequence`; none if that would have to wait.

        For the event loop, so few at a time: no further than the next number that 512 divides, and about 128 KiB. Those
        who catch up thus get the same batches, and a log that was written or read lately needs no thread.

        Raises:
            StoredDataDamaged: A line is not the event it should be.
        """
        place = self._execution.id, self._inode, after_sequence
        kept = self._batches.get(place)
        if kept is not None and len(kept) <= limit:
            return kept
        before = self._header.execution.last_sequence
        execution = self._execution
        count = min(limit, execution.last_sequence - after_sequence, _AT_HAND - after_sequence % _AT_HAND)
        if count <= 0 or after_sequence < before or not self._reading.acquire(blocking=False):
            return ()
        try:
            if self._lines.end < self._size:
                return ()
            batch = self._collect(after_sequence, count, _AT_HAND_BYTES, in_memory)
        except BlockingIOError:
            return ()
        finally:
            self._reading.release()
        end = after_sequence + len(batch)
        if end % _AT_HAND == 0 or (execution.status.terminal and end == execution.last_sequence):
            self._batches.keep(place, batch)
        return batch

    def current(self) -> Execution | None:
        """The execution after all events, if nothing was appended to the file that is not known; None otherwise.

        Asks the kernel for what it has in memory, and nothing else, so that it may be called on the event loop.
        """
        if self._changing.locked():
            # What another process wrote may be known already and not be durable yet.
            return None
        # The file is longer already by what this process appends, and tells of when that is done.
        writing, execution, size = self._writing, self._execution, self._size
        try:
            status = self._path.stat()
        except OSError:
            return None
        return execution if status.st_ino == self._inode and (writing or status.st_size == size) else None

    def refresh(self) -> bool:
        """Take in what other processes wrote. False if the log was removed.

        Raises:
            StoredDataDamaged: What they wrote is not a continuation of the log.
            LogReplaced: The log is to be opened again.
        """
        with self._changing:
            status = self._status()
            if status is None:
                return False
            if status.st_size != self._size:
                before = self._execution.status
                self._catch_up(committed_size(self._reader))
                if self._execution.status is not before:
                    os.fsync(self._reader)
            return True

    def append(self, events: Sequence[Event], at_end: Callable[[], object]) -> Execution:
        """Add events, all or none, and return the execution after them. After its last event `at_end` is called.

        Whoever has the lock of the file finds the state beside it, and what `at_end` does, as they are to stay.

        Made durable together with everything before, unless all the events are text deltas: these come often, and the
        message that follows them holds their text.

        Raises:
            ExecutionNotFound: The log was removed.
            RevisionConflict: The first event is not the next in sequence.
            LogReplaced: The log is to be opened again.
            ValueError: An event cannot follow the state it meets.
            OSError: The medium refused; nothing was added.
        """
        with self._appending, holding(self._reader, fcntl.LOCK_EX, self._path):
            with self._changing:
                status = self._status()
                if status is None:
                    raise ExecutionNotFound(self._execution.id)
                if status.st_size != self._size:
                    self._catch_up(status.st_size)
                before, end = self._execution, self._size
            after, lines = appended(before, events)
            parts = [self._header.line_of(line.data) for line in lines]
            content = b"".join(parts)
            if self._writer is None:
                self._writer = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            durable = any(not isinstance(event.payload, TextDelta) for event in events)
            self._writing = True
            try:
                with uncommitted(self._writer, end, self._path):
                    self._write(self._writer, content, torn=status.st_size > end, durable=durable)
                    self._unsynced = not durable
                    # Who appends waits for nobody who is about to find these lines.
                    if self._noting.acquire(blocking=False):
                        self._lines.add(end, map(len, parts))
                        self._noting.release()
                    with self._changing:
                        self._size = end + len(content)
                        self._publish(after, lines)
            finally:
                self._writing = False
            if after.status is not before.status:
                save_snapshot(self._directory, Snapshot(self._size, self._execution))
            if after.status.terminal:
                at_end()
            return after

    @property
    def unsynced(self) -> bool:
        """Whether this process appended what is not durable yet. Does not block."""
        return self._unsynced

    def sync(self) -> None:
        """Make all that was appended durable. Appending goes on meanwhile. Raises OSError."""
        self._unsynced = False
        os.fdatasync(self._reader)

    def read(self, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """Up to `limit` events after `after_sequence`, fewer if they are large; none at the end of the log.

        Raises:
            StoredDataDamaged: A line is not the event it should be.
            CursorOutOfRange: The log was trimmed, and the next event is gone.
        """
        before = self._header.execution.last_sequence
        if after_sequence < before:
            raise CursorOutOfRange(before + 1, self._execution.last_sequence)
        with self._changing:
            size, execution = self._size, self._execution
        count = min(limit, execution.last_sequence - after_sequence)
        if count <= 0:
            return ()
        with self._reading:
            with self._noting:
                found = before + self._lines.extend(self._reader, size)
            if found < execution.last_sequence:
                raise self._damaged(f"ends at event {found}, not {execution.last_sequence}")
            return self._collect(after_sequence, count, _BATCH_BYTES, os.pread)

    def close(self) -> None:
        """Give the file back. Nobody may use this log any more."""
        os.close(self._reader)
        if self._writer is not None:
            os.close(self._writer)

    def _collect(
        self, after_sequence: int, count: int, most_bytes: int, read_at: Callable[[int, int, int], bytes]
    ) -> StoredEvents:
        """Up to `count` events after `after_sequence`, whose lines have been noted."""
        first = after_sequence + 1 - self._header.execution.last_sequence
        line, start = self._lines.before(first)
        end = self._lines.behind(first + count - 1)
        lines = lines_after(self._reader, start, end, first - line, count, most_bytes, read_at)
        try:
            return self._header.events_of(after_sequence + 1, lines)
        except ValueError as fault:
            raise self._damaged(str(fault)) from fault

    def _status(self) -> os.stat_result | None:
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if status.st_ino != self._inode:
            raise LogReplaced
        if status.st_size < self._size:
            raise self._damaged("was cut while it was open")
        return status

    def _resume(self, size: int) -> Status | None:
        """Fold the log from the snapshot on, or from the beginning where none fits. Returns the snapshot's status."""
        snapshot = believed_snapshot(self._directory, self._reader, self._header, size)
        if snapshot is not None:
            try:
                self._size, self._execution = snapshot.log_size, snapshot.execution
                self._catch_up(size)
            except StoredDataDamaged:
                snapshot, self._size, self._execution = None, self._header.size, self._header.execution
        if snapshot is None:
            self._catch_up(size)
            return None
        return snapshot.execution.status

    def _catch_up(self, size: int) -> None:
        """Take in the whole lines between what is known and `size`, up to which the file is committed."""
        recent: deque[StoredEvent] = deque(maxlen=MOST_EVENTS)
        end = self._size
        sequence = self._execution.last_sequence

        def events() -> Iterator[Event]:
            nonlocal end, sequence
            for line in lines_between(self._reader, end, size):
                sequence += 1
                end += len(line) + 1
                data = self._header.event_of(sequence, line)
                event = event_json.decode(data)
                recent.append(StoredEvent(event.sequence, data))
                yield event

        try:
            execution = folded(self._execution, events())
        except (ValueError, RecursionError) as fault:
            raise self._damaged(f"{self._header.place_of(sequence)}: {fault}") from fault
        self._size = end
        self._publish(execution, recent)

    def _publish(self, execution: Execution, lines: Iterable[StoredEvent]) -> None:
        self._recent.add(lines)
        self._execution = execution

    def _write(self, writer: int, content: bytes, *, torn: bool, durable: bool) -> None:
        if torn:
            os.ftruncate(writer, self._size)
        try:
            files.write_all(writer, content)
            if durable:
                os.fsync(writer)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(writer, self._size)
            raise

    def _refresh_snapshot(self) -> None:
        """Save what was read, after making it durable. Whoever writes now does it in our place."""
        os.fsync(self._reader)
        try:
            fcntl.flock(self._reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        try:
            if self._path.stat().st_ino == self._inode:
                save_snapshot(self._directory, Snapshot(self._size, self._execution))
        finally:
            fcntl.flock(self._reader, fcntl.LOCK_UN)

    def _damaged(self, fault: str) -> StoredDataDamaged:
        return StoredDataDamaged(str(self._path), fault)
