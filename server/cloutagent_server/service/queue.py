"""The queue: executions wait in order, and a bounded number of them runs at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

from cloutagent_server.domain.errors import QueueFull, ServerUnavailable
from cloutagent_server.domain.execution import Execution


class RunQueue:
    """First come, first run. At most `max_running` run at a time and at most `max_waiting` wait."""

    def __init__(self, run: Callable[[Execution], Awaitable[None]], max_running: int, max_waiting: int) -> None:
        """`run` drives one execution to its end and raises nothing."""
        self._run = run
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, Execution] = OrderedDict()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._places = 0
        self._open = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Raises QueueFull if none can be added, ServerUnavailable once the queue is closed."""
        if not self._open:
            raise ServerUnavailable("the server is stopping")
        if len(self._running) + len(self._waiting) + self._places >= self._max_running + self._max_waiting:
            raise QueueFull(self._max_waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for an execution that is about to be added. Raises as `check_room` does."""
        self.check_room()
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    def add(self, execution: Execution) -> None:
        """Put an execution at the end; it runs as soon as its turn comes."""
        self._waiting[execution.id] = execution
        self._fill()

    def withdraw(self, execution_id: str) -> bool:
        """Take an execution out that waits. False if it does not (any more)."""
        return self._waiting.pop(execution_id, None) is not None

    def position_of(self, execution_id: str) -> int | None:
        """Executions ahead of one that waits; None if it does not wait."""
        for ahead, waiting in enumerate(self._waiting):
            if waiting == execution_id:
                return ahead
        return None

    async def stop(self) -> None:
        """Start nothing more and return when all that run have ended. Those that wait stay queued in storage."""
        self.close()
        while self._running:
            await asyncio.wait(self._running.values())

    def close(self) -> None:
        """Take nothing more and start nothing more. Those that wait can still be withdrawn."""
        self._open = False

    def _fill(self) -> None:
        while self._open and self._waiting and len(self._running) < self._max_running:
            execution_id, execution = self._waiting.popitem(last=False)
            task = asyncio.ensure_future(self._run(execution))
            self._running[execution_id] = task
            task.add_done_callback(partial(self._ended, execution_id))

    def _ended(self, execution_id: str, _: asyncio.Task[None]) -> None:
        del self._running[execution_id]
        self._fill()
