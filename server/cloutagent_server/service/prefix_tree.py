"""Texts that begin alike, told apart only as far as somebody asks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from threading import Lock
from typing import Final

from cloutagent_server.service.forms import Form, beginnings_of

# How many times as long the beginning of a form becomes when a text has all of it.
_GROWTH: Final = 2


class PrefixTree:
    """Some forms in order, each written only as far as a text had it.

    What is written of a form is never more than a few times of what a text had of it. Several threads may search at the
    same time.
    """

    def __init__(self, forms: Iterable[Form], size: int) -> None:
        """`size` is the bytes of each that are written at first."""
        self._lock = Lock()
        self._longest = 0
        self._texts: list[bytes] = []
        self._whole: set[bytes] = set()
        self._unwritten: dict[bytes, list[Form]] = {}
        # For each text the longest form that it begins with and is longer than, or nothing.
        self._within: dict[bytes, bytes] = {}
        self._write(forms, size, slice(0, 0), b"")

    def find(self, data: bytes, at: int) -> tuple[int, bool]:
        """The length of the longest form at this place, 0 if there is none, and whether the place is open.

        It is open if all of the data from there on is a form or the beginning of one.
        """
        with self._lock:
            while True:
                window = data[at : at + self._longest]
                after = bisect_right(self._texts, window)
                text = self._texts[after - 1] if after else b""
                if text not in self._unwritten or not window.startswith(text) or at + len(text) == len(data):
                    break
                self._write_on(after - 1)
            is_open = at + len(window) == len(data) and (
                text == window or (after < len(self._texts) and self._texts[after].startswith(window))
            )
            while text and not (text in self._whole and window.startswith(text)):
                text = self._within[text]
            return len(text), is_open

    def _write_on(self, place: int) -> None:
        text = self._texts[place]
        forms, size = self._unwritten.pop(text), len(text) * _GROWTH
        if text in self._whole:
            self._write(forms, size, slice(place + 1, place + 1), text)
        else:
            self._write(forms, size, slice(place, place + 1), self._within.pop(text))

    def _write(self, forms: Iterable[Form], size: int, places: slice, within: bytes) -> None:
        """Put the beginnings of these forms to these places; `within` is the longest form that they all begin with."""
        beginnings = set()
        for form, beginning, all_of_it in beginnings_of(forms, size):
            beginnings.add(beginning)
            if all_of_it:
                self._whole.add(beginning)
            else:
                self._unwritten.setdefault(beginning, []).append(form)
        around = [within]
        texts = sorted(beginnings)
        for text in texts:
            while not text.startswith(around[-1]):
                around.pop()
            self._within[text] = around[-1]
            if text in self._whole:
                around.append(text)
        self._texts[places] = texts
        self._longest = max(self._longest, *map(len, texts))
