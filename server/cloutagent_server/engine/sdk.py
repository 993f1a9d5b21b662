"""Imports claude-agent-sdk, which takes longer than all else of a server's start, when there is time for it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

LOG: Final = logging.getLogger(__name__)

_MODULE: Final = "claude_agent_sdk"
# A server that nobody has asked for a run until then has nothing better to do.
_IDLE_SECONDS: Final = 3.0
# What was missing for a moment, memory or descriptors, is looked for again.
_RETRY_SECONDS: Final = 10.0


def _nothing() -> None:
    """Nothing follows the import."""


class SdkLoader:
    """Imports the SDK once, beside the event loop: when it is needed first, or a while after the start.

    `then` is called in the importing thread when it is there. What fails is logged and tried again, when it is needed
    and after a while.

    Attributes:
        ready: Whether the SDK is imported.
        fault: Why the last attempt failed; None if it did not.
    """

    def __init__(self, then: Callable[[], object] = _nothing, module: str = _MODULE) -> None:
        self._then = then
        self._module = module
        self._timer: asyncio.TimerHandle | None = None
        self._loading: asyncio.Future[None] | None = None
        self._stopped = False
        self.ready = False
        self.fault: str | None = None

    def start(self, idle_seconds: float = _IDLE_SECONDS) -> None:
        """Begin after so many seconds, if nobody needs it before."""
        self._timer = asyncio.get_running_loop().call_later(idle_seconds, self._begin)

    def stop(self) -> None:
        """Begin no more by itself. What has begun is waited for by nobody."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def loaded(self) -> None:
        """Return when the SDK is imported. Raises what the import raised."""
        if not self.ready:
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Future[None]:
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.create_future()
            # A thread that a stopping process does not wait for.
            threading.Thread(target=self._load, args=(loop, self._loading), name="sdk", daemon=True).start()
        return self._loading

    def _load(self, loop: asyncio.AbstractEventLoop, loading: asyncio.Future[None]) -> None:
        try:
            importlib.import_module(self._module)
            self._then()
            tell = partial(self._succeed, loading)
        except BaseException as fault:
            tell = partial(self._fail, loading, fault)
        # A loop that was closed meanwhile has nobody who waits.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(tell)

    def _succeed(self, loading: asyncio.Future[None]) -> None:
        self.ready, self.fault = True, None
        loading.set_result(None)

    def _fail(self, loading: asyncio.Future[None], fault: BaseException) -> None:
        self._loading = None
        self.fault = f"{self._module} cannot be imported: {fault!r}"
        LOG.error("%s", self.fault)
        loading.set_exception(fault)
        # It is logged: whether somebody waited for it is not to be told as well.
        loading.exception()
        if not self._stopped:
            self.start(_RETRY_SECONDS)
