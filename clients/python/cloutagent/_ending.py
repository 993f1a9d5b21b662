"""The end of a client, which pauses do not outlast."""

from __future__ import annotations

import asyncio
import threading


class Ending:
    """Whether the blocking client was closed."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """The client is closed; all pauses end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether the client was closed."""
        return self._event.is_set()

    def pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the client is closed."""
        self._event.wait(seconds)


class AsyncEnding:
    """Whether the client for asyncio was closed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """The client is closed; all pauses end."""
        self._event.set()

    def is_set(self) -> bool:
        """Whether the client was closed."""
        return self._event.is_set()

    async def pause(self, seconds: float) -> None:
        """Wait so many seconds, or until the client is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
