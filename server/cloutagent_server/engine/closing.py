"""Steps that must be done even when time runs out or the calling task is cancelled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

LOG = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 1.0
_LAST_PAUSE_SECONDS: Final = 60.0


async def within(seconds: float, step: Coroutine[Any, Any, None]) -> None:
    """Give a step of an ending its time; what it raises or leaves undone is for the next, harder step."""
    with suppress(Exception):
        async with asyncio.timeout(seconds):
            await step


async def to_the_end(steps: Coroutine[Any, Any, None]) -> None:
    """Run `steps` to their end, however often the calling task is cancelled meanwhile, and pass that on only then."""
    task = asyncio.create_task(steps)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    if cancelled is not None:
        raise cancelled
    task.result()


async def attempted(step: Awaitable[object], what: str) -> None:
    """Do a step of an ending; what it raises is logged, and is not in the way of the others."""
    try:
        await step
    except Exception as error:
        LOG.warning("%s failed: %r", what, error)


class Endings:
    """Endings that are tried again until they succeed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def end(self, step: Callable[[], Awaitable[None]], what: str) -> None:
        """Do `step` now and, if it raises, again and again beside all else."""
        try:
            await step()
        except Exception as error:
            LOG.warning("%s failed, and is tried again: %r", what, error)
            task = asyncio.create_task(self._again(step, what))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up what did not succeed. The next start of the server clears it away."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _again(self, step: Callable[[], Awaitable[None]], what: str) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)
            with suppress(Exception):
                await step()
                LOG.info("%s succeeded in the end", what)
                return
