"""Waiting for the next event of a log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.events import StoredEvent
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage.filesystem.log import ExecutionLog
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.open_logs import OpenLogs
from cloutagent_server.storage.watchers import Watchers

_INTERVAL: Final = 0.2
_MOST_EVENTS: Final = 1_024


class LogWatch:
    """Wakes watchers when their log changed.

    Changes made through this process wake them at once. One task looks, every 0.2 seconds and only while somebody
    waits, for what other processes did to the logs that are watched.
    """

    def __init__(self, logs: OpenLogs) -> None:
        self._logs = logs
        self._watchers = Watchers()
        self._look_out: asyncio.Task[None] | None = None

    def wake(self, execution_id: str, events: Sequence[StoredEvent] = ()) -> None:
        """Let the watchers of an execution have these new events, or look again."""
        self._watchers.wake(execution_id, events)

    async def wait(self, execution_id: str, after_sequence: int, seconds: float | None) -> Sequence[StoredEvent] | None:
        """See `ExecutionStorage.wait_for_events`.

        Raises:
            StoredDataDamaged: The log cannot be read.
        """
        while True:
            log = self._logs.peek(execution_id)
            if log is None:
                if not is_id(execution_id):
                    return ()
            elif _has_news(log, after_sequence):
                return log.recent(after_sequence, _MOST_EVENTS)
            with self._watchers.waiting(execution_id, after_sequence, seconds) as news:
                # Nobody wakes this one between the look at an open log and here.
                if log is None and await off_loop(partial(self._look, execution_id, after_sequence)):
                    return ()
                if self._look_out is None or self._look_out.done():
                    self._look_out = asyncio.create_task(self._look_out_for_others())
                events = await news
                if events or events is None:
                    return events

    async def stop(self) -> None:
        """Stop looking out for other processes."""
        if self._look_out is not None:
            self._look_out.cancel()
            await asyncio.wait({self._look_out})

    async def _look_out_for_others(self) -> None:
        while watched := self._watchers.watched:
            for execution_id in await off_loop(partial(self._changed, watched)):
                self._watchers.wake(execution_id)
            await asyncio.sleep(_INTERVAL)

    def _changed(self, watched: Mapping[str, int]) -> Sequence[str]:
        changed = []
        for execution_id, after_sequence in watched.items():
            try:
                if self._look(execution_id, after_sequence):
                    changed.append(execution_id)
            except (CloutAgentError, OSError):
                changed.append(execution_id)
        return changed

    def _look(self, execution_id: str, after_sequence: int) -> bool:
        with self._logs.use(execution_id) as log:
            return log is None or _has_news(log, after_sequence)


def _has_news(log: ExecutionLog, after_sequence: int) -> bool:
    execution = log.execution
    return execution.last_sequence > after_sequence or execution.status.terminal
