"""Tells executions that wait how their place in the queue changes, as events, without flooding the storage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.events import Event, Queued
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.base import ExecutionStorage

log: Final = logging.getLogger(__name__)

# A change is told this much later, together with those that came meanwhile.
PAUSE_SECONDS: Final = 1.0
# Up to this place every change is told, behind it one of a tenth of the place.
_NEAR: Final = 10


def worth_telling(told: int, position: int) -> bool:
    """Whether somebody who was told one place should be told another.

    So an execution that waits behind n others is told of some 10 + 10 ln(n / 10) places, not of n.
    """
    distance = abs(told - position)
    return distance > 0 and (position < _NEAR or distance * 10 >= told)


class PlaceEvents:
    """Appends a `queued` event to each waiting execution whose place has changed, at most one in PAUSE_SECONDS.

    It owns the logs of the executions that it was given until they are taken back: nobody else may append to them.
    """

    def __init__(
        self,
        storage: ExecutionStorage,
        in_order: Callable[[], Sequence[str]],
        position_of: Callable[[str], int | None],
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`in_order` gives the ids of those that wait, `position_of` the place of one of them."""
        self._storage = storage
        self._in_order = in_order
        self._position_of = position_of
        self._pause_seconds = pause_seconds
        self._waiting: dict[str, Execution] = {}
        self._appending = asyncio.Lock()
        self._changed = False
        self._telling: asyncio.Task[None] | None = None

    def give(self, execution: Execution) -> None:
        """Tell this execution of its places from now on; `queue_position` is the one that it knows."""
        self._waiting[execution.id] = execution

    async def take(self, execution: Execution) -> Execution:
        """Tell this execution nothing more. Returns it with all that it was told."""
        async with self._appending:
            return self._waiting.pop(execution.id, execution)

    def changed(self) -> None:
        """Places have changed."""
        self._changed = True
        if self._waiting and self._telling is None:
            self._telling = asyncio.ensure_future(self._tell())

    async def stop(self) -> None:
        """Tell nobody anything more."""
        async with self._appending:
            self._waiting.clear()
            if self._telling is not None:
                self._telling.cancel()

    async def _tell(self) -> None:
        try:
            while self._changed and self._waiting:
                await asyncio.sleep(self._pause_seconds)
                self._changed = False
                for execution_id in self._in_order():
                    async with self._appending:
                        await self._tell_one(execution_id)
        finally:
            self._telling = None

    async def _tell_one(self, execution_id: str) -> None:
        execution, position = self._waiting.get(execution_id), self._position_of(execution_id)
        if execution is None or position is None or not worth_telling(execution.queue_position or 0, position):
            return
        event = Event(execution_id, execution.last_sequence + 1, timestamps.now(), Queued(position))
        try:
            self._waiting[execution_id] = await self._storage.append([event])
        except (CloutAgentError, ValueError) as fault:
            log.warning("a place could not be told", extra={"execution_id": execution_id, "fault": repr(fault)})
