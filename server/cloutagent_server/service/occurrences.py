"""Finding many texts in one that comes in pieces, also across its line ends."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate, islice
from typing import Final

from cloutagent_server.service.patterns import Patterns
from cloutagent_server.service.prefix_tree import PrefixTree

# One as it is, or as JSON writes it into a text, and what may become one.
_LINE_END: Final = re.compile(rb"(\r\n|\n|\r|\\r\\n|\\n|\\r)")
_PART_OF_LINE_END: Final = re.compile(rb"(?:\r|\\(?:r\\?)?)\Z")
# Stands for an empty line: base64 has none.
_EMPTY_LINE: Final = b"\n"


class Search:
    """The search through one text, which may come in pieces.

    Attributes:
        begin: The place in the text from which on more of it must be known: what was read from there on is a form or
            the beginning of one, or nothing.
        held: What was read from there on.
    """

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._waiting: list[PrefixTree] = []
        self.begin = 0
        self.held = b""

    def in_sight(self, data: bytes) -> bool:
        """Whether `push` may have forms to compare with the data."""
        return bool(self._waiting) or self._patterns.in_sight(self.held + data)

    def push(self, data: bytes) -> list[tuple[int, int]]:
        """Read on; gives the start and end of the longest form at each place before `begin` that was not given yet."""
        self.held += data
        if any(tree.find(self.held, 0)[1] for tree in self._waiting):
            return []
        return self._read(self._patterns.open(self.held), ended=False)

    def end(self) -> list[tuple[int, int]]:
        """The text ends here; gives the forms that were found in what was held. A new text may begin."""
        return self._read(len(self.held), ended=True)

    def drop(self) -> None:
        """The text ends here, and nobody asks what was held. A new text may begin."""
        self.begin += len(self.held)
        self.held, self._waiting = b"", []

    def _read(self, until: int, *, ended: bool) -> list[tuple[int, int]]:
        found, self._waiting = [], []
        for at, tree in self._patterns.places(self.held):
            if at > until:
                break
            length, is_open = tree.find(self.held, at)
            if is_open and not ended:
                until = at
                self._waiting.append(tree)
            elif length:
                found.append((self.begin + at, self.begin + at + length))
        self.begin += until
        self.held = self.held[until:]
        return [(start, end) for start, end in found if start < self.begin]


def wrapped_in_sight(patterns: Patterns, data: bytes) -> bool:
    """Whether the anchor of a form is in the data when its line ends are taken out."""
    return patterns.in_sight(_LINE_END.sub(b"", data))


class UnwrappedSearch:
    """A search through one text, in pieces, that takes no notice of line ends: of each by itself, not of empty lines.

    It tells places in the text as it is.
    """

    def __init__(self, patterns: Patterns) -> None:
        """The forms are those of base64."""
        self._search = Search(patterns)
        # Where lines begin, in what the search has read and in the text.
        self._begins: list[int] = []
        self._places: list[int] = []
        self._read = 0  # bytes that the search has read
        self._taken = 0  # bytes of the text that were taken, the rest included
        self._rest = b""
        self._at_line_end = False

    @property
    def held(self) -> bytes:
        """What was read, without line ends, and is a form or the beginning of one."""
        return self._search.held

    @property
    def begin(self) -> int:
        """Where in the text that begins, or the end of the text if there is none."""
        return self._place(self._search.begin) if self._search.held else self._taken

    def in_sight(self, data: bytes) -> bool:
        """Whether `push` may have forms to compare with the data."""
        return self._search.in_sight(_LINE_END.sub(b"", self._rest + data))

    def push(self, data: bytes) -> list[tuple[int, int]]:
        """Read on; gives where the forms that were found start and end."""
        text, at = self._rest + data, self._taken - len(self._rest)
        self._taken += len(data)
        part = _PART_OF_LINE_END.search(text, max(0, len(text) - 3))
        self._rest = part[0] if part else b""
        found = self._in_text(self._search.push(self._unwrapped(text[: len(text) - len(self._rest)], at)))
        passed = max(0, bisect_right(self._begins, self._search.begin) - 1)
        del self._begins[:passed], self._places[:passed]
        return found

    def end(self) -> list[tuple[int, int]]:
        """The text ends here; gives the forms that were found in what was held. A new text may begin."""
        found = self._in_text(self._search.end())
        self.drop()
        return found

    def drop(self) -> None:
        """The text ends here, and nobody asks what was held. A new text may begin."""
        self._search.drop()
        self._rest = b""
        self._at_line_end = False

    def _unwrapped(self, text: bytes, at: int) -> bytes:
        """The lines of a text that begins at this place, one after the other."""
        parts = _LINE_END.split(text)
        *lines, last = parts[::2]
        if lines:
            begins_with_line = bool(lines[0]) or self._at_line_end
            lines = [line or _EMPTY_LINE for line in lines]
            if not begins_with_line:
                lines[0] = b""
        if text:
            self._at_line_end = not last
        lines.append(last)
        *begins, self._read = accumulate(map(len, lines), initial=self._read)
        self._begins += begins
        self._places += islice(accumulate(map(len, parts), initial=at), 0, None, 2)
        return b"".join(lines)

    def _in_text(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(self._place(start), self._place(end - 1) + 1) for start, end in found]

    def _place(self, read: int) -> int:
        line = bisect_right(self._begins, read) - 1
        return self._places[line] + read - self._begins[line]
