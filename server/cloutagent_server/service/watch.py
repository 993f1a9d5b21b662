"""Watching: one code path for replay, live tail, late join, reconnect and a run that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from cloutagent_server.domain.errors import CursorOutOfRange, ExecutionNotFound
from cloutagent_server.domain.events import StoredEvent
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.storage.base import ExecutionStorage

BATCH_EVENTS: Final = 1_024
HEARTBEAT_SECONDS: Final = 15.0


class WatchService:
    """Follows the logs of executions."""

    def __init__(
        self,
        storage: ExecutionStorage,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        self._metrics = metrics
        self._storage = storage
        self._heartbeat_seconds = heartbeat_seconds

    async def check_cursor(self, execution_id: str, after_sequence: int) -> bool:
        """Check that a watch may start after this event. False if the execution has ended with it: nothing follows.

        Raises:
            ExecutionNotFound: There is no such execution.
            CursorOutOfRange: The log does not reach so far, or its next event was trimmed away.
        """
        execution = await self._storage.read(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        if after_sequence > execution.last_sequence:
            raise CursorOutOfRange(await self._first_sequence(execution_id), execution.last_sequence)
        if execution.status.terminal:
            await self._storage.read_events(execution_id, after_sequence, 1)
        return not execution.status.terminal or after_sequence < execution.last_sequence

    async def watch(self, execution_id: str, after_sequence: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        """The events after a sequence number, in order and once each, up to 1,024 at a time, until the last one.

        An empty batch is a heartbeat: nothing has happened for 15 seconds.

        Raises:
            ExecutionNotFound: There is no such execution, or it was deleted meanwhile.
            CursorOutOfRange: The log does not reach so far, or the next event was trimmed away.
        """
        await self.check_cursor(execution_id, after_sequence)
        cursor, woken = after_sequence, False
        news: Sequence[StoredEvent] | None = ()
        ahead: asyncio.Task[Sequence[StoredEvent]] | None = None
        self._metrics.watch_started()
        try:
            while True:
                events = news or await (self._read(execution_id, cursor) if ahead is None else ahead)
                news, ahead = (), None
                if events:
                    newest = events[-1]
                    cursor, last = newest.sequence, newest.terminal
                    if len(events) == BATCH_EVENTS and not last:
                        # Who catches up has the next batch read while this one is sent.
                        ahead = asyncio.create_task(self._read(execution_id, cursor))
                    yield events
                    if last:
                        return
                # The end of an execution wakes as well. Only who was woken and finds nothing asks for it.
                elif woken and await self._at_end(execution_id, cursor):
                    return
                if ahead is not None:
                    continue
                # Whether there is more is known without a look at the medium, which reading the end of a log is.
                news = await self._storage.wait_for_events(execution_id, cursor, self._heartbeat_seconds)
                woken = news is not None
                if not woken:
                    yield ()
        finally:
            self._metrics.watch_ended()
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _read(self, execution_id: str, cursor: int) -> Sequence[StoredEvent]:
        return await self._storage.read_events(execution_id, cursor, BATCH_EVENTS)

    async def _first_sequence(self, execution_id: str) -> int:
        try:
            await self._storage.read_events(execution_id, 0, 1)
        except CursorOutOfRange as trimmed:
            return trimmed.first_sequence
        return 1

    async def _at_end(self, execution_id: str, cursor: int) -> bool:
        execution = await self._storage.read(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        return execution.status.terminal and cursor >= execution.last_sequence
