"""Finding the calls of one execution in a month of a ledger, among those of all others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from zlib import crc32

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.ledger import LedgerCall, Reservation, Settlement
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.ledger_records import check_line, quoted, read_line
from cloutagent_server.storage.filesystem.lines import whole_lines

_BLOCK: Final = 1 << 20


class MonthScan:
    """Looks through one month's file: the bytes of others are compared, and only the execution's own lines are parsed.

    Whatever is damaged is noticed, whosever it is: a first look checks the checksum of each line, the next ones check
    one checksum of all that was checked before, which is several times cheaper. Blocks, for one thread at a time.
    """

    def __init__(self, path: Path, block_size: int = _BLOCK) -> None:
        self._path = path
        self._block_size = block_size
        self._checked = 0
        self._checksum = 0

    def calls(self, execution_id: str, size: int) -> Sequence[LedgerCall]:
        """The calls of an execution in the first `size` bytes, which are whole records, in the order of reservation.

        Raises:
            StoredDataDamaged: These bytes are not there, or hold something else than records.
            FileNotFoundError: There is no such file.
        """
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.check_trust(self._path, descriptor)
            try:
                self._check(descriptor, size)
                search = _Search(execution_id)
                for lines in whole_lines(descriptor, 0, size, self._block_size):
                    search.take(lines)
            except ValueError as fault:
                raise StoredDataDamaged(str(self._path), f"after byte {self._checked}: {fault}") from fault
            return tuple(search.calls.values())
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int, size: int) -> None:
        checksum = 0
        for lines in whole_lines(descriptor, 0, min(self._checked, size), self._block_size):
            checksum = crc32(lines, checksum)
        if size < self._checked or checksum != self._checksum:
            # A restore put another one there, or it is damaged: the lines tell which.
            self._checked = self._checksum = 0
        for lines in whole_lines(descriptor, self._checked, size, self._block_size):
            for line in lines[:-1].split(b"\n"):
                check_line(line)
            self._checksum = crc32(lines, self._checksum)
            self._checked += len(lines)
        if self._checked < size:
            raise ValueError("the records that followed are not there any more")


class _Search:
    """Collects the calls of one execution from lines that are shown in their order."""

    def __init__(self, execution_id: str) -> None:
        self._execution_id = execution_id
        self._open: set[str] = set()
        self.calls: dict[str, LedgerCall] = {}

    def take(self, lines: bytes) -> None:
        """Look through the next whole lines."""
        # A settlement stands behind its reservation, and names the call alone.
        behind = dict.fromkeys(self._open, 0)
        for line, end in _lines_with(lines, quoted(self._execution_id)):
            record = read_line(line)
            if isinstance(record, Reservation) and record.execution_id == self._execution_id:
                self.calls[record.call_id] = LedgerCall(record)
                self._open.add(record.call_id)
                behind[record.call_id] = end
        for call_id, start in behind.items():
            for line, _ in _lines_with(lines, quoted(call_id), start):
                record = read_line(line)
                if isinstance(record, Settlement) and record.call_id == call_id:
                    self.calls[call_id] = LedgerCall(self.calls[call_id].reservation, record)
                    self._open.remove(call_id)
                    break


def _lines_with(lines: bytes, text: bytes, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """The lines from `start` on, where one begins, that contain a text, each with the offset behind it."""
    while (found := lines.find(text, start)) >= 0:
        first = lines.rfind(b"\n", start, found) + 1 or start
        start = lines.index(b"\n", found) + 1
        yield lines[first : start - 1], start
