"""Blocking work beside the event loop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.storage.filesystem.files import describe

T = TypeVar("T")

_WORK: Final = ThreadPoolExecutor(8, thread_name_prefix="storage")
# Work that waits for another process must not take the threads of work that need not wait.
_WAITING: Final = ThreadPoolExecutor(32, thread_name_prefix="storage-write")
# Nor must work that reads much for one caller take them all.
_SCANNING: Final = ThreadPoolExecutor(2, thread_name_prefix="storage-scan")


class _Outcome(asyncio.Future[Any]):
    """What a thread will have done. Whoever is cancelled while waiting for it learns of that when it is there."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Not cancelled: the thread works on."""
        return False


async def off_loop(work: Callable[[], T], *, waits: bool = False, scans: bool = False) -> T:
    """Do blocking work in a thread; in one of those set apart for it, if it `waits` for locks or `scans` large files.

    A caller that is cancelled leaves only when the work has ended: so nothing runs on behind a lock that was given
    back, and what the work changed can be announced.

    Raises:
        StorageUnavailable: The work met an OSError.
    """
    outcome = _Outcome(loop=asyncio.get_running_loop())
    threads = _WAITING if waits else _SCANNING if scans else _WORK
    threads.submit(_run, partial(contextvars.copy_context().run, work), outcome)
    try:
        result: T = await outcome
    except asyncio.CancelledError:
        # Nobody asks any more what became of it.
        outcome.exception()
        raise
    except OSError as fault:
        raise StorageUnavailable(describe(fault)) from fault
    return result


def _run(work: Callable[[], object], outcome: _Outcome) -> None:
    try:
        tell = partial(outcome.set_result, work())
    except BaseException as fault:
        tell = partial(outcome.set_exception, fault)
    # A loop that was closed meanwhile has nobody who waits.
    with suppress(RuntimeError):
        outcome.get_loop().call_soon_threadsafe(tell)
