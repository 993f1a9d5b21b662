"""The body of a request that is made ready before it may go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

_PART_BYTES: Final = 64 * 1024


class HeldBody:
    """A body that goes out once `clearance` has come to its end, and not at all if that raises; None: at once.

    `going_out` is told right before the first byte goes out.

    Attributes:
        data: The body.
        went_out: By `time.perf_counter`, when it began to go out; None while the vendor has nothing of it.
    """

    def __init__(
        self, data: bytes, clearance: asyncio.Future[int] | None = None, going_out: Callable[[], None] | None = None
    ) -> None:
        self.data = data
        self.went_out: float | None = None
        self._clearance = clearance
        self._going_out = going_out

    async def cleared(self) -> None:
        """Return when it may go out. Raises what the clearance raises."""
        if self._clearance is not None:
            # Whoever gives this request up does not give up the call that was asked for.
            await asyncio.shield(self._clearance)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, piece by piece."""
        await self.cleared()
        if self._going_out is not None:
            self._going_out()
        self.went_out = time.perf_counter()
        for at in range(0, len(self.data), _PART_BYTES):
            yield self.data[at : at + _PART_BYTES]
