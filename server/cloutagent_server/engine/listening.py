"""Keeps the promises about how a run's listener is called."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.events import AgentOutput
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall, RunListener

P = ParamSpec("P")
T = TypeVar("T")


class OrderedListener:
    """Passes on what a run tells and asks: reports one at a time in order, and each call to its end.

    A caller that is cancelled stops waiting, but what it began to tell still arrives: no usage that was seen is lost.
    An exception of the listener is kept in `fault` and not raised; after it the listener is told nothing more and
    every call is refused, so that the run comes to its end and its owner can raise the fault.
    """

    def __init__(self, listener: RunListener) -> None:
        self._listener = listener
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._asked: dict[str, asyncio.Task[int]] = {}
        self._told: dict[str, set[asyncio.Task[None]]] = {}
        self.fault: Exception | None = None

    async def on_output(self, output: AgentOutput) -> None:
        """See `RunListener`."""
        await self._to_the_end(self._report(self._listener.on_output, output))

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        """See `RunListener`."""
        telling = asyncio.ensure_future(self._report(self._listener.on_usage, call_id, usage))
        told = self._told.setdefault(call_id, set())
        told.add(telling)
        telling.add_done_callback(told.discard)
        await self._to_the_end(telling)

    def before_call(self, call: PlannedCall) -> asyncio.Future[int]:
        """See `RunListener`. `after_call` must follow, also for a caller that was cancelled."""
        asked = asyncio.ensure_future(self._ask(call))
        self._asked[call.id] = asked
        return asked

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        """See `RunListener`. The listener is told after a fault, too: what was reserved has to be given back."""
        await self._to_the_end(self._end(call_id, end, usage))

    async def settle(self) -> None:
        """Return when everything that was told so far has arrived."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _report(self, tell: Callable[P, Awaitable[None]], *args: P.args, **kwargs: P.kwargs) -> None:
        async with self._turn:
            if self.fault is None:
                try:
                    await tell(*args, **kwargs)
                except Exception as fault:
                    self.fault = fault

    async def _ask(self, call: PlannedCall) -> int:
        if self.fault is None:
            try:
                return await self._listener.before_call(call)
            except CallRefused:
                raise
            except Exception as fault:
                self.fault = fault
        raise CallRefused("the server cannot account for this call")

    async def _end(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        asked = self._asked.pop(call_id, None)
        if asked is not None:
            await asyncio.wait({asked})
            if not asked.cancelled():
                # Whoever asked may be gone, and with it the one who was to hear of a refusal.
                asked.exception()
        if told := self._told.pop(call_id, None):
            # Whoever told it may be gone while it waits for its turn. What the call has come to is the last word.
            await asyncio.wait(told)
        try:
            await self._listener.after_call(call_id, end, usage)
        except Exception as fault:
            self.fault = self.fault or fault

    async def _to_the_end(self, call: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
        task = asyncio.ensure_future(call)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)
