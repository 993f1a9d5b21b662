"""Whose a client is: gRPC's connections belong to a process, those of `grpc.aio` to an event loop as well."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

SYNC_ADVICE: Final = "a client does not survive fork(): make one in each process"
ASYNC_ADVICE: Final = "a client belongs to the event loop and the process in which it was first used: make one in each"


def sync_owner() -> int:
    """The process."""
    return os.getpid()


def async_owner() -> tuple[int, asyncio.AbstractEventLoop]:
    """The process and its running event loop. Raises RuntimeError outside of one."""
    import asyncio

    return os.getpid(), asyncio.get_running_loop()


def sync_interrupted() -> bool:
    """Whether what came out of a call and is no failure of it is the caller's own: always, with threads."""
    return True


def async_interrupted() -> bool:
    """Whether the caller's task is being cancelled. If it is not, grpc.aio raised CancelledError by itself."""
    import asyncio

    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
