"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.storage.filesystem.files import describe

T = TypeVar("T")

# Work that waits for another process must not take the threads of work that need not wait.
_WAITING: Final = ThreadPoolExecutor(32, thread_name_prefix="storage-write")


async def off_loop(work: Callable[[], T], *, waits: bool = False) -> T:
    """Do blocking work in a thread; in one of those set apart for it, if the work `waits` for locks of others.

    A caller that is cancelled leaves only when the work has ended: so nothing runs on behind a lock that was given
    back, and what the work changed can be announced.

    Raises:
        StorageUnavailable: The work met an OSError.
    """
    future = asyncio.get_running_loop().run_in_executor(
        _WAITING if waits else None, contextvars.copy_context().run, work
    )
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as request:
            cancellation = request
    fault = None if future.cancelled() else future.exception()
    if cancellation is not None:
        raise cancellation
    if isinstance(fault, OSError):
        raise StorageUnavailable(describe(fault)) from fault
    return future.result()
