"""Finding many texts in one text at once: an automaton after Aho and Corasick, which reads each character once."""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Final

_ROOT: Final = 0
# How many characters are looked at before a place is taken for the beginning of a pattern.
_BEGINNING: Final = 3
# One as it is, or as JSON writes it into a text, and what may become one.
_LINE_END: Final = re.compile(r"\r\n|\n|\r|\\r\\n|\\n|\\r")
_PART_OF_LINE_END: Final = re.compile(r"(?:\r|\\(?:r\\?)?)\Z")


class Automaton:
    """What there is to find. Its size and the time to make it grow with the length of all patterns together.

    A node stands for the beginning of a pattern. Most have one way on, to the node numbered next, so that way is kept
    as a single character, and only what branches off needs a table.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Empty patterns are left out."""
        self.next_character: list[str] = [""]
        self.branches: dict[int, dict[str, int]] = {_ROOT: {}}
        self.depth = array("L", [0])
        self.longest = array("L", [0])
        self.fallback = array("L")
        for pattern in sorted({pattern for pattern in patterns if pattern}):
            self._add(pattern)
        self._link()
        self.begin = self._pattern_of_beginnings()

    def step(self, node: int, character: str) -> int:
        """The node of the longest beginning of a pattern that the text read so far ends with."""
        while True:
            if self.next_character[node] == character:
                return node + 1
            child = self.branches[node].get(character) if node in self.branches else None
            if child is not None:
                return child
            if node == _ROOT:
                return _ROOT
            node = self.fallback[node]

    def _pattern_of_beginnings(self) -> re.Pattern[str]:
        """Finds where a pattern may begin, and leaves out most other places: by the characters it may begin with."""
        shortest = min((self.depth[node] for node, length in enumerate(self.longest) if length), default=0)
        expression = ""
        nodes = [_ROOT]
        levels = []
        for _ in range(min(shortest, _BEGINNING)):
            ways = [way for node in nodes for way in self._ways(node)]
            levels.append("".join(sorted({re.escape(character) for character, _ in ways})))
            nodes = [child for _, child in ways]
        for level in reversed(levels):
            expression = f"[{level}](?:\\Z|{expression})" if expression else f"[{level}]"
        return re.compile(expression or "(?!)")

    def _ways(self, node: int) -> list[tuple[str, int]]:
        ways = list(self.branches.get(node, {}).items())
        return [*ways, (self.next_character[node], node + 1)] if self.next_character[node] else ways

    def _add(self, pattern: str) -> None:
        node, size = _ROOT, len(pattern)
        for at, character in enumerate(pattern):
            child = self._child(node, character)
            if child is None:
                # From here on the pattern shares no node with another.
                first = len(self.depth)
                if first == node + 1 and node != _ROOT:
                    self.next_character[node] = character
                else:
                    self.branches.setdefault(node, {})[character] = first
                self.next_character.extend([*pattern[at + 1 :], ""])
                self.depth.extend(range(at + 1, size + 1))
                self.longest.extend(repeat(0, size - at))
                node = len(self.depth) - 1
                break
            node = child
        self.longest[node] = size

    def _child(self, node: int, character: str) -> int | None:
        if self.next_character[node] == character:
            return node + 1
        return self.branches.get(node, {}).get(character)

    def _link(self) -> None:
        """Give each node its fallback: the longest other beginning of a pattern that it ends with."""
        self.fallback = array("L", bytes(self.depth.itemsize * len(self.depth)))
        waiting = deque(self.branches[_ROOT].values())
        while waiting:
            node = waiting.popleft()
            waiting.extend(self._linked(node, *way) for way in self._ways(node))

    def _linked(self, node: int, character: str, child: int) -> int:
        found = self.step(self.fallback[node], character)
        self.fallback[child] = found
        if not self.longest[child]:
            self.longest[child] = self.longest[found]
        return child


class Search:
    """The search through one text, which may come in pieces.

    Occurrences that overlap count as one, from the first character of them to the last; such that merely touch do not.

    Attributes:
        spans: The start and end of what was found so far, counted from the start of the text. Whoever has dealt with
            the first ones may take them away.
        read: How many characters were read.
    """

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._node = _ROOT
        self.spans: deque[tuple[int, int]] = deque()
        self.read = 0

    @property
    def open(self) -> int:
        """How many of the last characters read, at most, are the beginning of a pattern or all of it."""
        return self._automaton.depth[self._node]

    def push(self, text: str) -> None:
        """Read on."""
        step, longest, begin = self._automaton.step, self._automaton.longest, self._automaton.begin
        next_character = self._automaton.next_character
        node, at, size, base = self._node, 0, len(text), self.read + 1
        while at < size:
            if node == _ROOT:
                found = begin.search(text, at)
                if found is None:
                    break
                at = found.start()
            character = text[at]
            node = node + 1 if next_character[node] == character else step(node, character)
            length = longest[node]
            if length:
                self.mark(base + at - length, base + at)
            at += 1
        self._node = node
        self.read += size

    def mark(self, start: int, end: int) -> None:
        """Count this as found too."""
        behind = []
        while self.spans and self.spans[-1][1] > start:
            first, last = self.spans.pop()
            if first >= end:
                behind.append((first, last))
            else:
                start, end = min(start, first), max(end, last)
        self.spans.append((start, end))
        self.spans.extend(reversed(behind))

    def reset(self) -> None:
        """Let a new text begin here, of which nothing was read."""
        self._node = _ROOT


class UnwrappedSearch:
    """A search through one text, in pieces, that takes no notice of line ends: of each by itself, not of empty lines.

    It tells places in the text as it is.
    """

    def __init__(self, automaton: Automaton) -> None:
        self._search = Search(automaton)
        # Where what was read without a line end begins: in what the search has read, and in the text.
        self._lines: deque[tuple[int, int]] = deque([(0, 0)])
        self._rest = ""
        self._at_line_end = False

    @property
    def open(self) -> int:
        """How many of the last characters, at most and without line ends, are the beginning of a pattern or all."""
        return self._search.open

    @property
    def begin(self) -> int:
        """Where those begin. Without any this says nothing."""
        return self._place(self._search.read - self._search.open)

    def push(self, piece: str, at: int) -> Iterator[tuple[int, int]]:
        """Read on, from this place of the text; gives where the patterns that were found start and end."""
        text, at = self._rest + piece, at - len(self._rest)
        part = _PART_OF_LINE_END.search(text)
        self._rest = part[0] if part else ""
        start, stop = 0, len(text) - len(self._rest)
        for found in _LINE_END.finditer(text, 0, stop):
            if found.start() > start:
                yield from self._read(text[start : found.start()], at + start)
            elif self._at_line_end:
                self._search.reset()
            self._at_line_end = True
            start = found.end()
        if stop > start:
            yield from self._read(text[start:stop], at + start)
            self._at_line_end = False

    def reset(self) -> None:
        """Let a new text begin here, of which nothing was read."""
        self._search.reset()
        self._rest = ""
        self._at_line_end = False

    def _read(self, line: str, at: int) -> Iterator[tuple[int, int]]:
        search, lines = self._search, self._lines
        lines.append((search.read, at))
        search.push(line)
        while search.spans:
            start, end = search.spans.popleft()
            yield self._place(start), self._place(end - 1) + 1
        needed = search.read - search.open
        while len(lines) > 1 and lines[1][0] <= needed:
            lines.popleft()

    def _place(self, read: int) -> int:
        return next(place + read - before for before, place in reversed(self._lines) if before <= read)
