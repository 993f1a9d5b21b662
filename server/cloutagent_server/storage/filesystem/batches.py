"""Batches of events that were read lately: those who catch up side by side read the same, one after the other."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cloutagent_server.domain.events import StoredEvents

_MOST_BYTES: Final = 16 << 20

Place = tuple[str, int, int]
"""An execution, the inode of its log, and a sequence number. What follows that in this file never changes."""


class Batches:
    """Batches by the place that they follow, those used last, up to so many bytes of all logs together."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[Place, tuple[StoredEvents, int]] = OrderedDict()

    def get(self, place: Place) -> StoredEvents | None:
        """The batch that follows a place, if it is kept."""
        kept = self._kept.get(place)
        if kept is None:
            return None
        self._kept.move_to_end(place)
        return kept[0]

    def keep(self, place: Place, batch: StoredEvents) -> None:
        """Keep a batch that is not kept yet."""
        size = sum(map(len, batch.data))
        self._kept[place] = batch, size
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, size) = self._kept.popitem(last=False)
            self._bytes -= size
