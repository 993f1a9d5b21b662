"""Steps that must be done even when time runs out or the calling task is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


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
