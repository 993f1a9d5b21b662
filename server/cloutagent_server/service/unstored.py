"""Ends of runs that the storage did not take: kept, and stored as soon as it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.events import Event, Payload
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.base import ExecutionStorage

log: Final = logging.getLogger(__name__)

# The pause between two attempts doubles from the first to the last of these.
FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 30.0


class UnstoredEnds:
    """Holds the ends of runs while the storage is down. What is still here when the process dies, recovery ends."""

    def __init__(self, storage: ExecutionStorage, settled: Callable[[str], None]) -> None:
        """`settled` is called with the id of each execution whose end was stored or given up."""
        self._storage = storage
        self._settled = settled
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    def keep(self, execution: Execution, payloads: Sequence[Payload]) -> None:
        """Append these payloads to the execution's log, the last one its end, however long that takes."""
        time = timestamps.now()
        first = execution.last_sequence + 1
        events = [Event(execution.id, sequence, time, payload) for sequence, payload in enumerate(payloads, first)]
        task = asyncio.ensure_future(self._store(execution.id, events))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Try once more, then give up."""
        self._stopping.set()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _store(self, execution_id: str, events: Sequence[Event]) -> None:
        named = {"execution_id": execution_id}
        pause, last = FIRST_PAUSE_SECONDS, False
        try:
            while not last:
                last = await self._stops_within(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
                try:
                    await self._storage.append(events)
                except StorageUnavailable:
                    continue
                log.info("the end of a run was stored late", extra=named)
                return
            log.error("the end of a run was lost: the next start ends it as interrupted", extra=named)
        except Exception:
            log.exception("the end of a run was lost", extra=named)
        finally:
            self._settled(execution_id)

    async def _stops_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True
