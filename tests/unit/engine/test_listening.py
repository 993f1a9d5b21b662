"""What a run's listener is told comes in order, whoever told it is still there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.events import AgentOutput, TextDelta
from cloutagent_server.engine.base import CallEnd
from cloutagent_server.engine.listening import OrderedListener
from tests.support.messages import RememberingListener

WAIT = 5.0
BEGUN = TokenUsage(3000, 1, "claude-sonnet-4-5")


class Busy(RememberingListener):
    """Takes its time for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.order: list[str] = []

    async def on_output(self, output: AgentOutput) -> None:
        self.begun.set()
        await self.go_on.wait()

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        self.order.append(f"usage of {call_id}")

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        self.order.append(f"end of {call_id}")


async def test_the_end_of_a_call_comes_after_all_that_was_told_of_it() -> None:
    """Else what it had used at first would stand in the place of what it is settled with."""
    busy = Busy()
    listener = OrderedListener(busy)
    writing = asyncio.create_task(listener.on_output(TextDelta("Hello")))
    await asyncio.wait_for(busy.begun.wait(), WAIT)

    telling = asyncio.create_task(listener.on_usage("cut", BEGUN))
    await asyncio.sleep(0)
    telling.cancel()
    with suppress(asyncio.CancelledError):
        await telling
    ending = asyncio.create_task(listener.after_call("cut", CallEnd.CUT, BEGUN))
    await asyncio.wait_for(listener.after_call("another", CallEnd.FREE, None), WAIT)
    assert busy.order == ["end of another"], "the end of a call waits for its own reports alone"

    busy.go_on.set()
    await asyncio.wait_for(asyncio.gather(writing, ending), WAIT)
    assert busy.order == ["end of another", "usage of cut", "end of cut"]
