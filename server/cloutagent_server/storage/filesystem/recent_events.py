"""The last events of a log in memory: what watchers that fall behind for a moment find without a look at the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cloutagent_server.domain.events import StoredEvent

MOST_EVENTS: Final = 2_048
_MOST_BYTES: Final = 1 << 19


class RecentEvents:
    """Up to MOST_EVENTS events and 512 KiB of one log. One adds at a time; others may read meanwhile, in any thread."""

    def __init__(self) -> None:
        self._events: tuple[StoredEvent, ...] = ()
        self._bytes = 0

    def after(self, sequence: int, limit: int) -> Sequence[StoredEvent]:
        """Up to `limit` events after `sequence`; none if they are not all there. Does not block."""
        events = self._events
        if not events or sequence < events[0].sequence - 1:
            return ()
        start = sequence - events[0].sequence + 1
        return events[start : start + limit]

    def add(self, events: Iterable[StoredEvent]) -> None:
        """Add events that follow those that are there."""
        added = tuple(events)
        recent = self._events + added
        self._bytes += sum(len(event.data) for event in added)
        first = 0
        while len(recent) - first > MOST_EVENTS or self._bytes > _MOST_BYTES:
            self._bytes -= len(recent[first].data)
            first += 1
        self._events = recent[first:]
