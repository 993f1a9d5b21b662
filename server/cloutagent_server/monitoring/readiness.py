"""Whether the server can do its work now, and what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

CHECK_SECONDS: Final = 2.0

Check = Callable[[], Awaitable[str | None]]
"""Looks at one thing that calls need; gives what is wrong with it, or None. May raise."""


class Readiness:
    """Asks all checks at once, each at most once at a time: a medium that hangs does not take thread after thread."""

    def __init__(self, checks: Mapping[str, Check], seconds: float = CHECK_SECONDS) -> None:
        """A check that has not answered after so many `seconds` stands for a fault."""
        self._checks = checks
        self._seconds = seconds
        self._under_way: dict[str, asyncio.Task[str | None]] = {}

    async def faults(self) -> Mapping[str, str | None]:
        """What is wrong, by the name of the check; None where nothing is."""
        found = await asyncio.gather(*map(self._ask, self._checks))
        return dict(zip(self._checks, found, strict=True))

    async def _ask(self, name: str) -> str | None:
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.ensure_future(self._checks[name]())
            task.add_done_callback(lambda _: self._under_way.pop(name))
        await asyncio.wait({task}, timeout=self._seconds)
        if not task.done():
            return f"no answer within {self._seconds:g} s"
        fault = task.exception()
        return task.result() if fault is None else str(fault) or type(fault).__name__
