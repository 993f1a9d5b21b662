"""Waking those who wait for an execution's next event. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cloutagent_server.domain.events import StoredEvent

_NEVER: Final = float("inf")


class _Wait(NamedTuple):
    after_sequence: int
    deadline: float


News = Sequence[StoredEvent] | None
_Everybody = dict[str, dict[asyncio.Future[News], _Wait]]


class Watchers:
    """Who waits for news of which execution.

    A wake-up brings the events that follow those which a waiter knows, if these are at hand. Otherwise it is empty and
    says only "look again": the log holds what happened.
    """

    def __init__(self) -> None:
        self._waiting: _Everybody = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = _NEVER

    @property
    def watched(self) -> Mapping[str, int]:
        """The executions that somebody waits for, each with the lowest sequence number that is known to one of them."""
        return {
            execution_id: min(wait.after_sequence for wait in waiting.values())
            for execution_id, waiting in self._waiting.items()
        }

    def waiting(self, execution_id: str, after_sequence: int, seconds: float | None = None) -> Waiting:
        """A block with a future that is done at the next wake-up, or after so many seconds: with None."""
        deadline = _NEVER
        if seconds is not None:
            deadline = asyncio.get_running_loop().time() + seconds
            if deadline < self._due:
                self._look_at(deadline)
        return Waiting(self._waiting, execution_id, _Wait(after_sequence, deadline))

    def wake(self, execution_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Wake all who wait for this execution, because of these new events, and wait for none of them."""
        before = events[0].sequence - 1 if events else None
        for future, wait in self._waiting.pop(execution_id, {}).items():
            if not future.done():
                future.set_result(events if wait.after_sequence == before else ())

    def _look_at(self, deadline: float) -> None:
        """Look for those whose time is over when the first may be. One timer for all: waits are many and short."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._give_up)

    def _give_up(self) -> None:
        now, self._timer, self._due = self._due, None, _NEVER
        for waiting in self._waiting.values():
            for future, wait in waiting.items():
                if wait.deadline > now:
                    self._due = min(self._due, wait.deadline)
                elif not future.done():
                    future.set_result(None)
        if self._due < _NEVER:
            self._look_at(self._due)


class Waiting:
    """One who waits, from the beginning of a block to its end."""

    __slots__ = ("_all", "_execution_id", "_future", "_wait")

    def __init__(self, everybody: _Everybody, execution_id: str, wait: _Wait) -> None:
        self._all = everybody
        self._execution_id = execution_id
        self._wait = wait

    def __enter__(self) -> asyncio.Future[News]:
        future = self._future = asyncio.get_running_loop().create_future()
        waiting = self._all.get(self._execution_id)
        if waiting is None:
            self._all[self._execution_id] = {future: self._wait}
        else:
            waiting[future] = self._wait
        return future

    def __exit__(self, *_: object) -> None:
        waiting = self._all.get(self._execution_id)
        if waiting is not None and waiting.pop(self._future, None) is not None and not waiting:
            del self._all[self._execution_id]
