"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.storage.filesystem.files import describe

T = TypeVar("T")


async def off_loop(work: Callable[[], T]) -> T:
    """Do blocking work in a thread.

    A caller that is cancelled leaves only when the work has ended: so nothing runs on behind a lock that was given
    back, and what the work changed can be announced.

    Raises:
        StorageUnavailable: The work met an OSError.
    """
    future = asyncio.ensure_future(asyncio.to_thread(work))
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
