"""What one run has of the model gateway: its credential, its requests under way, and what its calls have used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.context import get_current

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.intake import RUN_BYTES, Room
from cloutagent_server.engine.listening import OrderedListener

CALLS_AT_ONCE: Final = 64
"""How many requests of one run are worked at. Its subagents make some at once; what passes this is answered 429."""
COUNTS_AT_ONCE: Final = 8
"""How many of them may ask for nothing but a count, which no budget holds back."""


@dataclass(frozen=True, slots=True)
class VendorError:
    """How a call to the vendor failed. `status` is HTTP's; None if there was none or the answer broke later."""

    status: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What an agent shows to the gateway, and where. It is refused until a session is opened with it."""

    token: str = field(repr=False)
    base_url: str


class GatewaySession:
    """One run's access to the gateway.

    Attributes:
        token: The credential that the agent sends; good until the session is closed.
        base_url: Where the agent finds the Messages API.
        calls: What each call of the run has used so far, by call id.
        last_error: How the latest call failed; None if it did not.
        room: The bytes that its requests may take.
        trace: What the run is traced in: where the session was opened.
    """

    def __init__(
        self, credential: Credential, config: AgentConfig, listener: OrderedListener, around: Room | None = None
    ) -> None:
        self.token = credential.token
        self.base_url = credential.base_url
        self.config = config
        self.listener = listener
        self.calls: dict[str, TokenUsage] = {}
        self.last_error: VendorError | None = None
        self.room = Room(RUN_BYTES, around)
        self.trace = get_current()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._counting = 0

    @property
    def busy(self) -> bool:
        """Whether the run has as many requests under way as it may."""
        return len(self._handlers) >= CALLS_AT_ONCE

    @property
    def counting(self) -> bool:
        """Whether as many of these as may do nothing but count."""
        return self._counting >= COUNTS_AT_ONCE

    @contextmanager
    def handling(self, *, counts: bool = False) -> Iterator[None]:
        """Mark the current task as one that works for this session, so that it can be cut."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._counting += counts
        try:
            yield
        finally:
            self._counting -= counts
            self._handlers.discard(task)

    async def report(self, call_id: str, usage: TokenUsage | None) -> bool:
        """Tell the listener what a call has used, if that is news. False if the run cannot go on."""
        if usage is not None and self.calls.get(call_id) != usage:
            self.calls[call_id] = usage
            await self.listener.on_usage(call_id, usage)
        return self.listener.fault is None

    def cut(self) -> None:
        """End the calls under way, without waiting for them to end."""
        for handler in self._handlers:
            handler.cancel()

    async def settle(self) -> None:
        """Return when no call is under way and all usage has been reported."""
        while self._handlers:
            await asyncio.wait(self._handlers)
        await self.listener.settle()
