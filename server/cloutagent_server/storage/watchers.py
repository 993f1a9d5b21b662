"""Waking those who wait for an execution's next event. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from cloutagent_server.domain.events import StoredEvent

_NEVER: Final = float("inf")

News = Sequence[StoredEvent] | None


class Watchers:
    """Who waits for news of which execution.

    A wake-up brings the events that follow those which a waiter knows, if these are at hand. Otherwise it is empty and
    says only "look again": the log holds what happened.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[Waiting, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER

    @property
    def watched(self) -> Mapping[str, int]:
        """The executions that somebody waits for, each with the lowest sequence number that is known to one of them."""
        return {
            execution_id: min(one.after_sequence for one in waiting) for execution_id, waiting in self._waiting.items()
        }

    def waiting(self, execution_id: str, after_sequence: int, seconds: float | None = None) -> Waiting:
        """A block with a future that is done at the next wake-up, or after so many seconds: with None."""
        loop = asyncio.get_running_loop()
        deadline = _NEVER
        if seconds is not None:
            deadline = loop.time() + seconds
            if deadline < self._due:
                self._look_at(deadline)
        return Waiting(self._waiting, execution_id, after_sequence, deadline, loop.create_future())

    def wake(self, execution_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Wake all who wait for this execution, because of these new events, and wait for none of them."""
        before = events[0].sequence - 1 if events else None
        for one in self._waiting.pop(execution_id, ()):
            one.tell(events if one.after_sequence == before else ())

    def _look_at(self, deadline: float) -> None:
        """Look for those whose time is over when the first may be. One timer for all: waits are many and short."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._give_up)

    def _give_up(self) -> None:
        now, self._timer, self._due = self._due, None, _NEVER
        for waiting in self._waiting.values():
            for one in waiting:
                if one.deadline > now:
                    self._due = min(self._due, one.deadline)
                else:
                    one.tell(None)
        if self._due < _NEVER:
            self._look_at(self._due)


class Waiting:
    """One who waits, from the beginning of a block to its end.

    Attributes:
        after_sequence: The last event that is known to it.
        deadline: When it has waited long enough, in the time of the event loop.
    """

    __slots__ = ("_all", "_execution_id", "_future", "after_sequence", "deadline")

    def __init__(
        self,
        everybody: dict[str, dict[Waiting, None]],
        execution_id: str,
        after_sequence: int,
        deadline: float,
        future: asyncio.Future[News],
    ) -> None:
        self._all = everybody
        self._execution_id = execution_id
        self._future = future
        self.after_sequence = after_sequence
        self.deadline = deadline

    def tell(self, news: News) -> None:
        """Wake this one, if it is still asleep."""
        if not self._future.done():
            self._future.set_result(news)

    def __enter__(self) -> asyncio.Future[News]:
        self._all.setdefault(self._execution_id, {})[self] = None
        return self._future

    def __exit__(self, *_: object) -> None:
        waiting = self._all.get(self._execution_id)
        if waiting is not None and self in waiting:
            del waiting[self]
            if not waiting:
                del self._all[self._execution_id]
