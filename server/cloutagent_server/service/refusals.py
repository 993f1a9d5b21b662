"""Refused calls for the audit log, which is never shortened: the first of each caller, and how many more there were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry

RECORDED_EACH: Final = 10
WINDOW_SECONDS: Final = 60.0


@dataclass(slots=True)
class _Window:
    ends: asyncio.TimerHandle
    refused: int = 0


class Refusals:
    """Has of each actor the first 10 refused calls of a minute recorded, and of the others the number.

    The minute begins with the first of them. What is counted is recorded when it is over, or at the stop; so an actor
    adds at most 11 records a minute, whatever it asks for.
    """

    def __init__(self, record: Callable[[AuditEntry], Awaitable[None]], seconds: float = WINDOW_SECONDS) -> None:
        """`record` makes a record and does not raise. `seconds` is the length of the window."""
        self._record = record
        self._seconds = seconds
        self._windows: dict[str, _Window] = {}
        self._ending: set[asyncio.Future[None]] = set()

    async def add(self, entry: AuditEntry) -> None:
        """Record a refused call, or count it."""
        window = self._windows.get(entry.actor)
        if window is None:
            timer = asyncio.get_running_loop().call_later(self._seconds, self._end, entry.actor)
            window = self._windows[entry.actor] = _Window(timer)
        window.refused += 1
        if window.refused <= RECORDED_EACH:
            await self._record(entry)

    async def stop(self) -> None:
        """Record what was counted."""
        for actor in [*self._windows]:
            self._end(actor)
        await asyncio.gather(*self._ending)

    def _end(self, actor: str) -> None:
        window = self._windows.pop(actor)
        window.ends.cancel()
        more = window.refused - RECORDED_EACH
        if more > 0:
            made = asyncio.ensure_future(self._record(AuditEntry(actor, audit.ACCESS, audit.DENIED, count=more)))
            self._ending.add(made)
            made.add_done_callback(self._ending.discard)
