"""Finding many texts in one text at once: an automaton after Aho and Corasick, which reads each character once."""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Final

_ROOT: Final = 0
# How many characters are looked at before a place is taken for the beginning of a pattern.
_BEGINNING: Final = 3


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
        """Count this as found too. It must not end before what was found last."""
        while self.spans and self.spans[-1][1] > start:
            start = min(start, self.spans.pop()[0])
        self.spans.append((start, end))

    def reset(self) -> None:
        """Let a new text begin here, of which nothing was read."""
        self._node = _ROOT
