"""Work that is done once a day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

RETRY: Final = timedelta(hours=1)
# After a start, before work that was never done is done for the first time.
FIRST: Final = timedelta(minutes=10)

_DAY: Final = timedelta(days=1)
# A clock that is set meanwhile, or a machine that slept, is noticed within this time.
_LONGEST_SLEEP: Final = timedelta(minutes=5)

log: Final = logging.getLogger(__name__)


class Daily:
    """Does `work` every day at an hour of UTC, one at a time. A failure is logged and tried again an hour later.

    What should have been done while the server was down is done at its start, and ten minutes later if it was never
    done: so a server that never runs at that hour does it, too.
    """

    def __init__(
        self,
        name: str,
        hour: int,
        work: Callable[[], Awaitable[None]],
        last: Callable[[], datetime | None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`last` tells when the work was last done, None if never. It may block."""
        self._name = name
        self._hour = hour
        self._work = work
        self._last = last
        self._now = now
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, and return at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop; work under way is cancelled, and this returns when it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        due = await self._first()
        while True:
            while (left := due - self._now()) > timedelta():
                await self._sleep(min(left, _LONGEST_SLEEP).total_seconds())
            try:
                await self._work()
                due = self._slot_before(self._now()) + _DAY
            except Exception:
                log.exception("daily_work_failed", extra={"work": self._name})
                due = self._now() + RETRY

    async def _first(self) -> datetime:
        before = self._slot_before(self._now())
        try:
            last = await asyncio.to_thread(self._last)
        except OSError:
            last = None
        if last is None:
            return min(self._now() + FIRST, before + _DAY)
        return before if last < before else before + _DAY

    def _slot_before(self, time: datetime) -> datetime:
        """The last time at or before `time` at which the work was due."""
        slot = time.astimezone(UTC).replace(hour=self._hour, minute=0, second=0, microsecond=0)
        return slot if slot <= time else slot - _DAY
