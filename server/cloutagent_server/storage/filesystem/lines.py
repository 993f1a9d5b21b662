"""Finding the lines of a log by number."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Final

_BLOCK: Final = 1 << 18
_STRIDE: Final = 64


def lines_between(descriptor: int, start: int, end: int, block_size: int = _BLOCK) -> Iterator[bytes]:
    """The whole lines in `start` <= offset < `end`, without their line ends. What follows the last is left out."""
    for lines in whole_lines(descriptor, start, end, block_size):
        yield from lines[:-1].split(b"\n")


def whole_lines(descriptor: int, start: int, end: int, block_size: int = _BLOCK) -> Iterator[bytes]:
    """The bytes of the whole lines in `start` <= offset < `end`, with their line ends, some lines at a time."""
    rest = b""
    while start < end:
        block = os.pread(descriptor, min(block_size, end - start), start)
        if not block:
            return
        start += len(block)
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:]
        if cut:
            yield block[:cut]


def in_memory(descriptor: int, size: int, start: int) -> bytes:
    """What `os.pread` reads, if it need not wait for the medium.

    Raises:
        BlockingIOError: It would have to wait, or the file system cannot tell.
    """
    block = bytearray(size)
    try:
        read = os.preadv(descriptor, (block,), start, os.RWF_NOWAIT)
    except OSError as fault:
        raise BlockingIOError(fault.errno, os.strerror(fault.errno or 0)) from fault
    return bytes(memoryview(block)[:read])


def lines_after(
    descriptor: int,
    start: int,
    end: int,
    skip: int,
    most: int,
    most_bytes: int,
    read_at: Callable[[int, int, int], bytes] = os.pread,
) -> list[bytes]:
    """Up to `most` whole lines, without their line ends, that follow the first `skip` lines from `start` on.

    Fewer at `end`, and where `most_bytes` have been read; then one at least. `read_at` reads as `os.pread` does, and
    its exceptions are passed on.
    """
    lines: list[bytes] = []
    rest, read = b"", 0
    while start < end and len(lines) < skip + most and (read < most_bytes or len(lines) <= skip):
        block = read_at(descriptor, min(_BLOCK, most_bytes, end - start), start)
        if not block:
            break
        start += len(block)
        read += len(block)
        *whole, rest = (rest + block).split(b"\n")
        lines += whole
    return lines[skip : skip + most]


def line_ending_at(descriptor: int, end: int) -> bytes | None:
    """The line, without its line end, behind which the offset `end` lies; None if no line ends there."""
    start, tail = end, b""
    while start > 0 and tail.count(b"\n", 0, -1) == 0:
        length = min(_BLOCK, start)
        start -= length
        tail = os.pread(descriptor, length, start) + tail
        if not tail.endswith(b"\n"):
            return None
    return tail[:-1].rpartition(b"\n")[2] if tail else None


class LineIndex:
    """Where the lines of an append-only file begin: the offset of one line in 64, found as far as was asked for.

    Lines count from 1; the first begins at `start`.
    """

    def __init__(self, start: int) -> None:
        self._offsets = array("Q", [start])
        self._lines = 0
        self._end = start

    def extend(self, descriptor: int, end: int) -> int:
        """Note the lines up to the offset `end`, at which a line ends. Returns how many there are."""
        while self._end < end:
            block = os.pread(descriptor, min(_BLOCK, end - self._end), self._end)
            if not block:
                break
            found = block.find(b"\n")
            while found >= 0:
                self._lines += 1
                if self._lines % _STRIDE == 0:
                    self._offsets.append(self._end + found + 1)
                found = block.find(b"\n", found + 1)
            self._end += len(block)
        return self._lines

    def add(self, start: int, lengths: Iterable[int]) -> None:
        """Note lines of these lengths, line ends included, that begin at `start`; nothing if others come before."""
        if self._end != start:
            return
        for length in lengths:
            self._lines += 1
            self._end += length
            if self._lines % _STRIDE == 0:
                self._offsets.append(self._end)

    @property
    def end(self) -> int:
        """The offset up to which lines were noted."""
        return self._end

    def before(self, line: int) -> tuple[int, int]:
        """A line not after `line`, and at most 63 in front of it, and its offset. `line` has been noted."""
        step = (line - 1) // _STRIDE
        return step * _STRIDE + 1, self._offsets[step]

    def behind(self, line: int) -> int:
        """An offset at which a line ends: that of `line`, which has been noted, or of one at most 63 lines further."""
        step = (line - 1) // _STRIDE + 1
        return self._offsets[step] if step < len(self._offsets) else self._end
