"""Doing a storage's blocking work where it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def work_at_once(loop: asyncio.AbstractEventLoop) -> None:
    """Let a loop hand no work to threads, for good.

    A trial in which nobody contends is told the same either way, and in thousands of trials to hand over the work costs
    more than the work.
    """

    def run(_: object, work: Callable[..., Any], *args: object) -> asyncio.Future[Any]:
        done = loop.create_future()
        try:
            done.set_result(work(*args))
        except BaseException as fault:
            done.set_exception(fault)
        return done

    loop.run_in_executor = run  # type: ignore[method-assign,assignment]
