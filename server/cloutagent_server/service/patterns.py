"""What is looked for in a text, so that most of the text is passed over: one word in every few bytes is looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from operator import itemgetter
from typing import Final, Literal

from cloutagent_server.service.forms import Form
from cloutagent_server.service.prefix_tree import PrefixTree

# How a text is looked at: words of so many bytes, one in every so many bytes. A form that has as many bytes as both
# together, less one, has one of these words in it wherever it begins.
_WORDS: Final = ((8, 16), (8, 8), (4, 8), (4, 4), (2, 2), (1, 1))
_CODES: Final[Mapping[int, Literal["Q", "I", "H", "B"]]] = {8: "Q", 4: "I", 2: "H", 1: "B"}
# What is looked at of each form before a text has its beginning.
ANCHOR_BYTES: Final = 23
# What is compared at first, where a text has it.
_COMPARED_BYTES: Final = 4 * ANCHOR_BYTES
# By so many bytes most places are seen not to be the beginning of a form.
_TELLING_BYTES: Final = 3


class Patterns:
    """The forms to be found. Making them costs the number of forms, whatever their length.

    Attributes:
        shortest: The bytes of the shortest form, or 23 if all have more. 0 if there is no form.
    """

    def __init__(self, forms: Iterable[Form]) -> None:
        alike: dict[bytes, list[Form]] = {}
        for form in forms:
            alike.setdefault(form.beginning(ANCHOR_BYTES)[0], []).append(form)
        self.shortest = min(map(len, alike), default=0)
        self._beginnings = sorted(alike)
        self._telling = frozenset(beginning[:size] for beginning in alike for size in range(1, _TELLING_BYTES + 1))
        anchors: dict[tuple[int, int], dict[bytes, list[Form]]] = {}
        for beginning, found in alike.items():
            word, pace = next(words for words in _WORDS if sum(words) - 1 <= len(beginning))
            of_kind = anchors.setdefault((word, pace), {})
            of_kind.setdefault(beginning[: word + pace - 1], []).extend(found)
        self._anchors = [_Anchors(word, pace, forms) for (word, pace), forms in anchors.items()]

    @property
    def words(self) -> int:
        """How many words of forms are kept: what the size of all this depends on."""
        return sum(anchors.words for anchors in self._anchors)

    def places(self, data: bytes) -> Iterator[tuple[int, PrefixTree]]:
        """Where forms may begin of which there is the anchor, first to last, and what may be there."""
        found = [anchors.places(data) for anchors in self._anchors]
        return found[0] if len(found) == 1 else merge(*found, key=itemgetter(0))

    def in_sight(self, data: bytes) -> bool:
        """Whether the anchor of a form is in the data."""
        return next(self.places(data), None) is not None

    def open(self, data: bytes) -> int:
        """The first place near the end of the data from which on it is the beginning of a form, or its length."""
        size, telling = len(data), self._telling
        for at in range(max(0, size - ANCHOR_BYTES + 1), size):
            if data[at : at + _TELLING_BYTES] in telling:
                tail = data[at:]
                place = bisect_left(self._beginnings, tail)
                if place < len(self._beginnings) and self._beginnings[place].startswith(tail):
                    return at
        return size


class _Anchors:
    """The first bytes of forms, as many as have one of the words that are looked at, and the words in them."""

    def __init__(self, word: int, pace: int, forms: Mapping[bytes, list[Form]]) -> None:
        """One word of `word` bytes is looked at in every `pace` bytes."""
        self._word, self._pace, self._code = word, pace, _CODES[word]
        self._forms = forms
        self._trees: dict[bytes, PrefixTree] = {}
        # Where in an anchor each word is, last place first.
        self._offsets: dict[int, tuple[int, ...]] = {}
        all_anchors = b"".join(anchor + b"\0" for anchor in forms)
        for offset in reversed(range(pace)):
            alone = (offset,)
            part = memoryview(all_anchors)[offset : offset + len(all_anchors) - pace]
            for found in part.cast(self._code)[:: (word + pace) // word]:
                known = self._offsets.setdefault(found, alone)
                if known[-1] != offset:
                    self._offsets[found] = (*known, offset)

    @property
    def words(self) -> int:
        return len(self._offsets)

    def places(self, data: bytes) -> Iterator[tuple[int, PrefixTree]]:
        pace, size, offsets = self._pace, self._word + self._pace - 1, self._offsets
        whole = len(data) // self._word * self._word
        words = memoryview(data)[:whole].cast(self._code)[:: pace // self._word]
        if offsets.keys().isdisjoint(words):
            return
        for number, word in enumerate(words):
            for offset in offsets.get(word, ()):
                at = number * pace - offset
                tree = self._tree(data[at : at + size]) if at >= 0 else None
                if tree is not None:
                    yield at, tree

    def _tree(self, anchor: bytes) -> PrefixTree | None:
        tree = self._trees.get(anchor)
        if tree is None and anchor in self._forms:
            tree = self._trees[anchor] = PrefixTree(self._forms[anchor], _COMPARED_BYTES)
        return tree
