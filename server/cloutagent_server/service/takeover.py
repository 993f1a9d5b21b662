"""Looking after executions of other servers on the same storage: those that died, and requests to cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from cloutagent_server.service.executions import ExecutionService

INTERVAL_SECONDS: Final = 1.0

log: Final = logging.getLogger(__name__)


class Takeover:
    """Takes over, about once a second, what dead servers left, and cancels what others were asked to cancel here."""

    def __init__(self, executions: ExecutionService, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._executions = executions
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

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            for work in (self._executions.cancel_requested, self._executions.recover):
                await self._do(work)

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("looking after executions failed")
