"""The lines of an execution's log: the header, which tells what the execution was created with, then the events.

Every line is JSON. Since version 2 each ends with the field `crc32`: the CRC-32, in hex, of the line as it is without
that field. Lines of a log of version 1 have none, and it goes on without.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isal.isal_zlib import crc32

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.events import StoredEvents
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage.filesystem.digest_records import digest_from_fields, digest_to_json
from cloutagent_server.storage.filesystem.documents import dump_line
from cloutagent_server.storage.filesystem.execution_records import (
    EXECUTION,
    execution_fields_to_json,
    execution_from_fields,
)
from cloutagent_server.storage.filesystem.lines import lines_between
from cloutagent_server.storage.filesystem.outcome_records import outcome_from_fields, outcome_to_json
from cloutagent_server.storage.filesystem.schema import parse

_HEADER_BLOCK: Final = 1 << 13
_MARK: Final = b',"crc32":"'
_TAIL: Final = len(_MARK) + len('01234567"}')
_TAILS: Final = _MARK + b'%08x"}'
_CHECKED_SINCE: Final = 2
_TRIMMED_START: Final = re.compile(rb'{"schemaVersion":\d+,"trimmed":')
_START_SIZE: Final = 64
_POWERS: Final = tuple(10**digits for digits in range(1, 16))


def sealed(data: bytes) -> bytes:
    """A JSON object with its checksum as the last field, and the line's end."""
    return b'%b,"crc32":"%08x"}\n' % (data[:-1], crc32(data))


def unsealed(line: bytes) -> bytes:
    """The JSON object in a line with a checksum. Raises ValueError if they do not belong together."""
    if line[-_TAIL:-10] != _MARK or line[-2:] != b'"}':
        raise ValueError("its checksum is missing")
    data = line[:-_TAIL] + b"}"
    if b"%08x" % crc32(data) != line[-10:-2]:
        raise ValueError("its checksum does not fit")
    return data


@dataclass(frozen=True, slots=True)
class LogHeader:
    """What the first line of a log tells.

    Attributes:
        execution: The execution before the first event that follows. That is event 1, unless the log was trimmed.
        size: Where the events begin, in bytes.
        checked: Whether the lines have checksums.
        whole: The digest of the log as it was before it was trimmed; None if it was not, or none was kept.
    """

    execution: Execution
    size: int
    checked: bool
    whole: LogDigest | None = None

    @property
    def first_sequence(self) -> int:
        """The number of the first event that follows."""
        return self.execution.last_sequence + 1

    def line_of(self, data: bytes) -> bytes:
        """An event as a line of this log, with the line's end."""
        return sealed(data) if self.checked else data + b"\n"

    def event_of(self, sequence: int, line: bytes) -> bytes:
        """The event of this number, as it goes over the wire, from its line without the line's end.

        Raises:
            ValueError: The line is not that event, as far as its checksum and its two ends tell.
        """
        data = unsealed(line) if self.checked else line
        if not data.startswith(b'{"executionId":"%b","sequence":%d,' % (self.execution.id.encode(), sequence)):
            raise ValueError("is not that event")
        if not data.endswith(b"}"):
            raise ValueError("is not that event")
        return data

    def events_of(self, first: int, lines: Sequence[bytes]) -> StoredEvents:
        """The events from the number `first` on, each as `event_of` makes it.

        Raises:
            ValueError: A line is not the event that it should be; tells which.
        """
        # A replay is as fast as this: what every line needs is done for all of them at once, where their numbers have
        # as many digits.
        numbers = range(first, first + len(lines))
        if longer := next((power for power in _POWERS if power in numbers and power != first), None):
            cut = longer - first
            rest = self.events_of(longer, lines[cut:])
            return StoredEvents(first, [*self.events_of(first, lines[:cut]).data, *rest.data])
        events = [line[:-_TAIL] + b"}" for line in lines] if self.checked else lines
        start = b'{"executionId":"%b","sequence":%%d,' % self.execution.id.encode()
        length = len(start % first)
        right = b"".join([line[:length] for line in lines]) == start * len(lines) % tuple(numbers)
        if self.checked:
            tails = _TAILS * len(lines) % tuple(map(crc32, events))
            right = right and b"".join([line[-_TAIL:] for line in lines]) == tails
        else:
            right = right and all(event.endswith(b"}") for event in events)
        if not right:
            events = [self._told(number, line) for number, line in zip(numbers, lines, strict=True)]
        return StoredEvents(first, events)

    def _told(self, sequence: int, line: bytes) -> bytes:
        try:
            return self.event_of(sequence, line)
        except ValueError as fault:
            raise ValueError(f"{self.place_of(sequence)}: {fault}") from None

    def place_of(self, sequence: int) -> str:
        """How faults tell an event and its line."""
        return f"line {sequence - self.first_sequence + 2}, event {sequence}"


def header_line(created: Execution, before_first: Execution | None = None, whole: LogDigest | None = None) -> bytes:
    """The first line of a log. With `before_first`, of one that begins behind the state that this tells.

    `whole` is what the log was before that.
    """
    trimmed = {} if before_first is None else {"trimmed": outcome_to_json(before_first)}
    if whole is not None:
        trimmed["whole"] = digest_to_json(whole)
    document = EXECUTION.stamp({**trimmed, "execution": execution_fields_to_json(created)})
    return sealed(dump_line(document)[:-1])


def header_of(line: bytes) -> LogHeader:
    """What a first line, without its line's end, tells. Raises ValueError if it is none."""
    document = parse(line)
    checked = _version(document) >= _CHECKED_SINCE
    if checked and _version(document) <= EXECUTION.version:
        document = parse(unsealed(line))
    outer = EXECUTION.open(document)
    execution = execution_from_fields(outer.fields("execution"))
    whole = None
    if outer.has("trimmed"):
        fields = outer.fields("trimmed")
        execution = outcome_from_fields(fields, execution)
        fields.end()
        whole = outer.optional(lambda name: digest_from_fields(outer.fields(name)), "whole")
        if whole is not None and whole.last_sequence != execution.last_sequence + 1:
            raise ValueError("whole.lastSequence is not the event that is left")
    outer.end()
    return LogHeader(execution, len(line) + 1, checked, whole)


def read_header(descriptor: int, path: Path, execution_id: str) -> LogHeader:
    """What the first line of an open log tells.

    Raises:
        StoredDataDamaged: The line is no header, or is another execution's. `path` names the log.
    """
    line = next(lines_between(descriptor, 0, os.fstat(descriptor).st_size, _HEADER_BLOCK), None)
    if line is None:
        raise StoredDataDamaged(str(path), "has no whole first line")
    try:
        header = header_of(line)
    except ValueError as fault:
        raise StoredDataDamaged(str(path), f"first line: {fault}") from fault
    if header.execution.id != execution_id:
        raise StoredDataDamaged(str(path), "first line: is another execution's")
    return header


def is_trimmed(descriptor: int) -> bool:
    """Whether an open log was trimmed already, by how it begins."""
    return _TRIMMED_START.match(os.pread(descriptor, _START_SIZE, 0)) is not None


def _version(document: Any) -> int:
    version = document.get("schemaVersion") if isinstance(document, Mapping) else None
    return version if isinstance(version, int) else 0
