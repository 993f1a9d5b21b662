"""The queue: executions wait for their turn, and a bounded number of them runs at a time."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NamedTuple

from cloutagent_server.domain.errors import QueueFull, ServerUnavailable
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.metrics import NO_METRICS, Metrics


class _Turn(NamedTuple):
    """When an execution's turn is: in which round, and in it in order of arrival. It waits since `since`."""

    round: int
    number: int
    execution_id: str
    since: float = 0.0


class RunQueue:
    """Projects take turns; of one project first come, first run.

    In each round every project that waits has one turn, so that whoever queues many executions delays the others by
    one at a time. At most `max_running` run at a time, of one project at most `max_running_of_project`; at most
    `max_waiting` wait, of one project at most `max_waiting_of_project`. None is no bound of the project's own. An
    execution whose project runs as many as it may lets those behind it pass.
    """

    def __init__(
        self,
        run: Callable[[Execution], Coroutine[Any, Any, None]],
        max_running: int,
        max_waiting: int,
        max_running_of_project: int | None = None,
        max_waiting_of_project: int | None = None,
        changed: Callable[[], None] = lambda: None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`run` drives one execution to its end and raises nothing, in the context in which it was added.

        `changed` is called when places have changed.
        """
        self._run = run
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_running_of_project = max_running if max_running_of_project is None else max_running_of_project
        self._max_waiting_of_project = max_waiting if max_waiting_of_project is None else max_waiting_of_project
        self._changed = changed
        self._metrics = metrics
        self._waiting: dict[str, tuple[_Turn, Execution, Context]] = {}
        self._order: list[_Turn] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._waiting_of: Counter[str] = Counter()
        self._running_of: Counter[str] = Counter()
        self._places_of: Counter[str] = Counter()
        self._arrivals = 0
        self._round = 0
        self._last_round_of: dict[str, int] = {}
        # The projects that had their turn in the present round.
        self._served: set[str] = set()
        self._open = True

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._running)

    def check_room(self, project_id: str) -> None:
        """Raises QueueFull if none of the project can be added, ServerUnavailable once the queue is closed."""
        if not self._open:
            raise ServerUnavailable("the server is stopping")
        free = self._max_running - len(self._running)
        if len(self._waiting) + self._places_of.total() >= free + self._max_waiting:
            raise QueueFull(self._max_waiting)
        free_of_project = max(0, min(free, self._max_running_of_project - self._running_of[project_id]))
        waiting = self._waiting_of[project_id] + self._places_of[project_id]
        if waiting >= free_of_project + self._max_waiting_of_project:
            raise QueueFull(self._max_waiting_of_project, "project")

    @contextmanager
    def place(self, project_id: str) -> Iterator[None]:
        """Hold a place for an execution that is about to be added. Raises as `check_room` does."""
        self.check_room(project_id)
        self._places_of[project_id] += 1
        try:
            yield
        finally:
            _less(self._places_of, project_id)

    def next_position(self, project_id: str) -> int:
        """How many would be ahead of an execution of this project that is added now."""
        return bisect_left(self._order, _Turn(self._next_round(project_id), self._arrivals, ""))

    def add(self, execution: Execution) -> None:
        """Give an execution its turn; it runs as soon as that comes. Raises ValueError for one that has its turn."""
        if execution.id in self._waiting or execution.id in self._running:
            raise ValueError(f"{execution.id} has its turn already")
        project_id = execution.project_id
        turn = _Turn(self._next_round(project_id), self._arrivals, execution.id, time.monotonic())
        self._arrivals += 1
        self._last_round_of[project_id] = turn.round
        self._waiting[execution.id] = turn, execution, copy_context()
        self._waiting_of[project_id] += 1
        insort(self._order, turn)
        self._fill()
        self._changed()

    def withdraw(self, execution_id: str) -> bool:
        """Take an execution out that waits. False if it does not (any more)."""
        if execution_id not in self._waiting:
            return False
        project_id = self._remove(execution_id)[0].project_id
        left = [turn.round for turn, execution, _ in self._waiting.values() if execution.project_id == project_id]
        if left:
            self._last_round_of[project_id] = max(left)
        self._changed()
        return True

    def position_of(self, execution_id: str) -> int | None:
        """Executions ahead of one that waits; None if it does not wait."""
        waiting = self._waiting.get(execution_id)
        return None if waiting is None else bisect_left(self._order, waiting[0])

    def in_order(self) -> Sequence[str]:
        """Those that wait, in the order of their turns."""
        return [turn.execution_id for turn in self._order]

    async def stop(self) -> None:
        """Start nothing more and return when all that run have ended. Those that wait stay queued in storage."""
        self.close()
        while self._running:
            await asyncio.wait(self._running.values())

    def close(self) -> None:
        """Take nothing more and start nothing more. Those that wait can still be withdrawn."""
        self._open = False

    def _next_round(self, project_id: str) -> int:
        last = self._last_round_of.get(project_id, self._round - 1)
        return max(last + 1, self._round + (project_id in self._served))

    def _fill(self) -> None:
        while self._open and len(self._running) < self._max_running:
            turn = next((turn for turn in self._order if self._may_run(turn)), None)
            if turn is None:
                return
            execution, context = self._remove(turn.execution_id)
            self._metrics.execution_dequeued(time.monotonic() - turn.since)
            self._running_of[execution.project_id] += 1
            if turn.round > self._round:
                self._round = turn.round
                self._served.clear()
            self._served.add(execution.project_id)
            task = asyncio.get_running_loop().create_task(self._run(execution), context=context)
            self._running[execution.id] = task
            task.add_done_callback(partial(self._ended, execution))

    def _may_run(self, turn: _Turn) -> bool:
        _, execution, _ = self._waiting[turn.execution_id]
        return self._running_of[execution.project_id] < self._max_running_of_project

    def _remove(self, execution_id: str) -> tuple[Execution, Context]:
        turn, execution, context = self._waiting.pop(execution_id)
        del self._order[bisect_left(self._order, turn)]
        _less(self._waiting_of, execution.project_id)
        if execution.project_id not in self._waiting_of:
            del self._last_round_of[execution.project_id]
        return execution, context

    def _ended(self, execution: Execution, _: asyncio.Task[None]) -> None:
        del self._running[execution.id]
        _less(self._running_of, execution.project_id)
        self._fill()
        self._changed()


def _less(counter: Counter[str], key: str) -> None:
    """Count one less, and keep no counts of 0: projects come and go."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
