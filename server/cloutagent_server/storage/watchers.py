"""Waking those who wait for an execution's next event. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


class Watchers:
    """Who waits for news of which execution. A wake-up says only "look again": the log holds what happened."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[asyncio.Future[bool], int]] = {}

    @property
    def watched(self) -> Mapping[str, int]:
        """The executions that somebody waits for, each with the lowest sequence number that is known to one of them."""
        return {execution_id: min(waiting.values()) for execution_id, waiting in self._waiting.items()}

    def waiting(self, execution_id: str, after_sequence: int, seconds: float | None = None) -> Waiting:
        """A block with a future that is done at the next wake-up: True; or after so many seconds: False."""
        return Waiting(self._waiting, execution_id, after_sequence, seconds)

    def wake(self, execution_id: str) -> None:
        """Wake all who wait for this execution, and wait for none of them."""
        for future in self._waiting.pop(execution_id, {}):
            if not future.done():
                future.set_result(True)


class Waiting:
    """One who waits, from the beginning of a block to its end."""

    __slots__ = ("_after_sequence", "_all", "_execution_id", "_future", "_seconds", "_timer")

    def __init__(
        self,
        everybody: dict[str, dict[asyncio.Future[bool], int]],
        execution_id: str,
        after_sequence: int,
        seconds: float | None,
    ) -> None:
        self._all = everybody
        self._execution_id = execution_id
        self._after_sequence = after_sequence
        self._seconds = seconds

    def __enter__(self) -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        self._timer = None if self._seconds is None else loop.call_later(self._seconds, _give_up, future)
        self._all.setdefault(self._execution_id, {})[future] = self._after_sequence
        return future

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting = self._all.get(self._execution_id)
        if waiting is not None and waiting.pop(self._future, None) is not None and not waiting:
            del self._all[self._execution_id]


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
