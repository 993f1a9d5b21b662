"""One project's ledger on disk: a file of lines for each month, which only grows, and what the lines add up to.

`{month}.jsonl` holds the reservations of a month and their settlements. `{month}.totals.json` spares reading a month
that is over and has no open calls; it is believed only for a log of the very size that it names. Everything here
blocks, and whoever calls it holds the ledger's lock, unless it says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.ledger import LedgerCall, Reservation, Settlement, month_of
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.ledger_records import (
    read_line,
    reserved_line,
    settled_line,
    totals_from_json,
    totals_to_json,
)
from cloutagent_server.storage.filesystem.ledger_scan import MonthScan
from cloutagent_server.storage.filesystem.lines import lines_between
from cloutagent_server.storage.ledger_book import MonthBook

_LOG: Final = ".jsonl"
_TOTALS: Final = ".totals.json"

_log = structlog.get_logger(__name__)


def months_in(directory: Path) -> Sequence[str]:
    """The months of the ledger in a directory, in order."""
    return sorted(name.removesuffix(_LOG) for name in files.names_in(directory) if name.endswith(_LOG))


class LedgerFiles:
    """The months of the ledger in `directory`, as far as they have been read.

    Attributes:
        months: By month, what its lines add up to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[str, int] = {}
        self._inodes: dict[str, int] = {}
        self._scans: dict[str, MonthScan] = {}
        self.months: dict[str, MonthBook] = {}

    def refresh(self, now: datetime) -> None:
        """Take in what others wrote; what a crash left at the end of a file is not taken for a record.

        Raises:
            StoredDataDamaged: A file holds something else than records, or was cut or replaced by another.
        """
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            found = {entry.name.removesuffix(_LOG): entry.stat() for entry in entries if entry.name.endswith(_LOG)}
        for month, status in found.items():
            if status.st_ino != self._inodes.get(month, status.st_ino) or status.st_size < self._sizes.get(month, 0):
                # Put there by a restore: what was known of it is not what it holds.
                self._forget(month)
            self._inodes[month] = status.st_ino
            if status.st_size != self._sizes.get(month):
                self._read(month, status.st_size, over=month < month_of(now))
        for month in self._inodes.keys() - found.keys():
            self._forget(month)

    def check(self, month: str) -> None:
        """Read the records of a month from the first on. Changes nothing, and needs no lock.

        Raises:
            StoredDataDamaged: It holds something else than records.
            OSError: It cannot be read.
        """
        self._take_in(month, MonthBook(), 0, self._path(month).stat().st_size)

    def reserve(self, reservation: Reservation, syncing: Callable[[], None] = lambda: None) -> None:
        """Write a reservation, durably; `syncing` is called when it is written, and before it is durable.

        Raises:
            ValueError: The call is open already.
        """
        month = month_of(reservation.time)
        book = self.months.get(month, MonthBook())
        book.reserve(reservation)
        try:
            self._append(month, reserved_line(reservation), syncing)
        except BaseException:
            del book.open[reservation.call_id]
            raise
        self.months[month] = book

    def settle(self, settlement: Settlement) -> bool:
        """Write a settlement, durably. False if the call is not open."""
        for month, book in self.months.items():
            if settlement.call_id in book.open:
                self._append(month, settled_line(settlement))
                book.settle(settlement)
                return True
        return False

    def extent(self, since: datetime, until: datetime | None) -> Mapping[str, int]:
        """How many bytes of the months from `since` to `until` hold records. What they hold never changes."""
        first, last = month_of(since), max(self.months, default="") if until is None else month_of(until)
        return {month: self._sizes[month] for month in sorted(self.months) if first <= month <= last}

    def calls(self, execution_id: str, extent: Mapping[str, int]) -> Sequence[LedgerCall]:
        """The calls of an execution within `extent`, in the order of their reservations.

        Needs no lock, and is for one thread at a time.

        Raises:
            StoredDataDamaged: A file within it holds something else than records.
        """
        calls: list[LedgerCall] = []
        # The project may be deleted meanwhile.
        with suppress(FileNotFoundError):
            for month, size in extent.items():
                scan = self._scans.setdefault(month, MonthScan(self._path(month)))
                calls += scan.calls(execution_id, size)
        return calls

    def _forget(self, month: str) -> None:
        for known in (self.months, self._sizes, self._inodes):
            known.pop(month, None)

    def _path(self, month: str) -> Path:
        return self._directory / (month + _LOG)

    def _read(self, month: str, size: int, *, over: bool) -> None:
        if over and month not in self._sizes and self._load_totals(month, size):
            return
        book = self.months.get(month, MonthBook())
        try:
            end = self._take_in(month, book, self._sizes.get(month, 0), size)
        except StoredDataDamaged:
            # The book may have taken in some of the lines: it is read anew the next time.
            self._forget(month)
            raise
        self.months[month], self._sizes[month] = book, end
        if over and not book.open and end == size:
            self._save_totals(month)

    def _take_in(self, month: str, book: MonthBook, start: int, size: int) -> int:
        """Add the records between two offsets to a book. Returns the offset behind the last of them."""
        end = start
        try:
            for record, behind in self._numbered(month, start, size):
                if isinstance(record, Settlement):
                    book.settle(record)
                else:
                    book.reserve(record)
                end = behind
        except ValueError as fault:
            raise StoredDataDamaged(str(self._path(month)), f"after byte {end}: {fault}") from fault
        return end

    def _numbered(self, month: str, start: int, size: int) -> Iterator[tuple[Reservation | Settlement, int]]:
        """The records between two offsets, each with the offset behind it, up to what a crash left at the end."""
        path = self._path(month)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.check_trust(path, descriptor)
            fault: ValueError | None = None
            for line in lines_between(descriptor, start, size):
                start += len(line) + 1
                try:
                    record = read_line(line)
                except ValueError as found:
                    if fault is not None or b"\0" not in line:
                        # One record is written at a time: a crash leaves no more than one that is not whole. It has no
                        # end, or zeros where power was lost. Any other was written whole, and has been altered since.
                        raise
                    fault = found
                    continue
                if fault is not None:
                    raise fault
                yield record, start
        finally:
            os.close(descriptor)

    def _append(self, month: str, line: bytes, syncing: Callable[[], None] = lambda: None) -> None:
        path = self._path(month)
        end = self._sizes.get(month)
        new = end is None
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
        try:
            start = end or 0
            status = os.fstat(descriptor)
            if status.st_size > start:
                os.ftruncate(descriptor, start)
            try:
                files.write_all(descriptor, line)
                syncing()
                os.fdatasync(descriptor)
                if new:
                    os.fsync(descriptor)
                    files.sync_directory(self._directory)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, start)
                raise
        finally:
            os.close(descriptor)
        self._sizes[month], self._inodes[month] = start + len(line), status.st_ino

    def _load_totals(self, month: str, size: int) -> bool:
        try:
            held = load(self._directory / (month + _TOTALS), totals_from_json)
        except StoredDataDamaged as fault:
            _log.warning("ledger_totals_rebuilt", location=fault.location, fault=fault.fault)
            return False
        if held is None or held[1] != size:
            return False
        self.months[month], self._sizes[month] = held
        return True

    def _save_totals(self, month: str) -> None:
        path = self._directory / (month + _TOTALS)
        try:
            files.write(path, dump(totals_to_json(self.months[month], self._sizes[month])))
        except (OSError, StoredDataDamaged, StorageUnavailable) as fault:
            _log.warning("ledger_totals_not_saved", location=str(path), fault=repr(fault))
