"""Making text deltas durable: soon, for many at once, and while nobody waits for it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.open_logs import OpenLogs

DELAY_SECONDS: Final = 0.05

_log = structlog.get_logger(__name__)


class DelayedSync:
    """Syncs logs 0.05 seconds after the first of the events that are not durable yet, however many follow it.

    So a loss of power takes the text of that time, and of one sync, at most. A sync that the medium refuses is logged:
    the next event that is not a text delta meets the same fault, and is refused.
    """

    def __init__(self, logs: OpenLogs) -> None:
        self._logs = logs
        self._due: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, execution_id: str) -> None:
        """Note that the log of an execution has something that is not durable. Returns at once."""
        self._due.add(execution_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Sync what is due, and return when it is done."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while self._due:
            await asyncio.sleep(DELAY_SECONDS)
            due, self._due = self._due, set()
            for execution_id in due:
                try:
                    await off_loop(partial(self._sync, execution_id))
                except (CloutAgentError, OSError) as fault:
                    _log.warning("log_not_synced", execution_id=execution_id, fault=repr(fault))

    def _sync(self, execution_id: str) -> None:
        with self._logs.use(execution_id) as log:
            if log is not None:
                log.sync()
