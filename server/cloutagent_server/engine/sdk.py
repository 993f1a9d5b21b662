"""Imports claude-agent-sdk, which takes longer than all else of a server's start, when there is time for it."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

_MODULE: Final = "claude_agent_sdk"
# A server that nobody has asked for a run until then has nothing better to do.
_IDLE_SECONDS: Final = 3.0


def _nothing() -> None:
    """Nothing follows the import."""


class SdkLoader:
    """Imports the SDK once, beside the event loop: when it is needed first, or a while after the start.

    `then` is called in the importing thread when it is there.
    """

    def __init__(self, then: Callable[[], object] = _nothing, module: str = _MODULE) -> None:
        self._then = then
        self._module = module
        self._timer: asyncio.TimerHandle | None = None
        self._loaded: asyncio.Future[None] | None = None

    def start(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Begin after so many seconds, if nobody needs it before."""
        self._timer = asyncio.get_running_loop().call_later(idle_seconds, self._begin)

    def stop(self) -> None:
        """Begin no more. What has begun is waited for by nobody."""
        if self._timer is not None:
            self._timer.cancel()

    async def loaded(self) -> None:
        """Return when the SDK is imported. Raises what the import raised."""
        await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Future[None]:
        if self._loaded is None:
            loop = asyncio.get_running_loop()
            self._loaded = loop.create_future()
            # What nobody asked for may never be looked at.
            self._loaded.add_done_callback(lambda loaded: loaded.cancelled() or loaded.exception())
            # A thread that a stopping process does not wait for.
            threading.Thread(target=self._load, args=(loop, self._loaded), name="sdk", daemon=True).start()
        return self._loaded

    def _load(self, loop: asyncio.AbstractEventLoop, loaded: asyncio.Future[None]) -> None:
        try:
            importlib.import_module(self._module)
            self._then()
            tell = partial(loaded.set_result, None)
        except BaseException as fault:
            tell = partial(loaded.set_exception, fault)
        # A loop that was closed meanwhile has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell)
