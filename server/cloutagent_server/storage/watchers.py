"""Waking those who wait for an execution's next event. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Watchers:
    """Who waits for news of which execution. A wake-up says only "look again": the log holds what happened."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}

    @property
    def watched(self) -> Mapping[str, int]:
        """The executions that somebody waits for, each with the lowest sequence number that is known to one of them."""
        return {execution_id: min(waiting.values()) for execution_id, waiting in self._waiting.items()}

    @contextmanager
    def waiting(self, execution_id: str, after_sequence: int) -> Iterator[asyncio.Future[None]]:
        """A future that is done at the next wake-up after this call."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(execution_id, {})[future] = after_sequence
        try:
            yield future
        finally:
            waiting = self._waiting.get(execution_id, {})
            if waiting.pop(future, None) is not None and not waiting:
                del self._waiting[execution_id]

    def wake(self, execution_id: str) -> None:
        """Wake all who wait for this execution, and wait for none of them."""
        for future in self._waiting.pop(execution_id, {}):
            if not future.done():
                future.set_result(None)
