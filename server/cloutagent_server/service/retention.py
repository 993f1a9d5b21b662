"""How long the events of ended executions are kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import CloutAgentError, StoredDataDamaged
from cloutagent_server.storage.base import ExecutionStorage, History

INTERVAL_SECONDS: Final = 3600.0

log: Final = logging.getLogger(__name__)


class Retention:
    """Trims the logs of ended executions once an hour: the old ones, and the oldest while all are too large together.

    A trimmed execution keeps what it was created with, its outcome and its last event. One that has not ended is
    left alone.
    """

    def __init__(
        self,
        executions: ExecutionStorage,
        keep: timedelta,
        max_bytes: int,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        """Logs are trimmed `keep` after their execution ended, and earlier while those of all have over `max_bytes`."""
        self._executions = executions
        self._keep = keep
        self._max_bytes = max_bytes
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, and return at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop, and return when nothing is under way any more. Without a start nothing happens."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None

    async def sweep(self, now: datetime) -> int:
        """Trim what is due, and return the number of executions of which events were removed.

        A log that cannot be read, or whose medium refuses, is left as it is.
        """
        due = self._due(await self._executions.list_histories(), now)
        return sum([await self._trim(history.execution_id) for history in due])

    def _due(self, histories: Sequence[History], now: datetime) -> Sequence[History]:
        total = sum(history.size for history in histories)
        due = []
        for history in sorted(histories, key=lambda one: one.ended_at):
            if not history.trimmed and (history.ended_at <= now - self._keep or total > self._max_bytes):
                due.append(history)
                total -= history.size
        return due

    async def _trim(self, execution_id: str) -> bool:
        try:
            return await self._executions.trim(execution_id)
        except StoredDataDamaged as fault:
            log.error("a damaged log is not trimmed", extra={"location": fault.location, "fault": fault.fault})
        except (CloutAgentError, OSError) as fault:
            log.error("a log was not trimmed", extra={"execution_id": execution_id, "fault": repr(fault)})
        return False

    async def _run(self) -> None:
        while True:
            try:
                trimmed = await self.sweep(timestamps.now())
                log.info("event logs trimmed", extra={"executions": trimmed})
            except Exception:
                log.exception("retention failed")
            await asyncio.sleep(self._interval_seconds)
