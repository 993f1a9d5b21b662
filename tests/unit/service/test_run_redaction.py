"""Where the redaction of a run takes place: on the event loop only what is short and has none of the secrets."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cloutagent_server.domain.events import ToolUse
from cloutagent_server.service import run_redaction
from cloutagent_server.service.redaction import PIECE_CHARACTERS, REDACTED, RedactedStream, Redactor
from cloutagent_server.service.run_redaction import RunRedaction

VALUE = "a-secret-value-of-some-length"


class Threads:
    """Notes in which threads methods run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[str, bool]] = []
        for owner, name in ((RedactedStream, "push"), (RedactedStream, "flush"), (Redactor, "document")):
            monkeypatch.setattr(owner, name, self._noting(name, getattr(owner, name)))

    def _noting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any) -> Any:
            self.seen.append((name, threading.current_thread() is threading.main_thread()))
            return method(*args)

        return noting

    def on_the_loop(self, name: str) -> set[bool]:
        """Whether the method ran on the event loop; empty if it did not run."""
        return {main for seen, main in self.seen if seen == name}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


async def test_all_is_found_out_about_the_values_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []

    def make(values: tuple[str, ...]) -> Redactor:
        made.append(threading.current_thread())
        return Redactor(values)

    monkeypatch.setattr(run_redaction, "Redactor", make)
    redaction = await RunRedaction.of({"A": VALUE}.values())
    assert made and made[0] is not threading.main_thread()
    assert await redaction.whole(f"it is {VALUE}") == f"it is {REDACTED}"


async def test_short_text_without_a_value_stays_on_the_event_loop(threads: Threads) -> None:
    redaction = await RunRedaction.of([VALUE])
    assert await redaction.push("it is ") + await redaction.push("nothing") + await redaction.flush() == "it is nothing"
    assert threads.on_the_loop("push") == threads.on_the_loop("flush") == {True}


IN_LINES = "\n".join(base64.b64encode(VALUE.encode()).decode()[:-4])


@pytest.mark.parametrize(
    "text", ["plain " * 20_000, f"it is {VALUE}", f"it is\n\n{IN_LINES}"], ids=["long", "with a value", "in lines"]
)
async def test_what_may_take_long_goes_to_a_thread(threads: Threads, text: str) -> None:
    redaction = await RunRedaction.of([VALUE])
    assert await redaction.whole(text) == text.replace(VALUE, REDACTED).replace(IN_LINES, REDACTED)
    assert threads.on_the_loop("push") == {False}
    assert len(threads.seen) == 1 + -(-len(text) // PIECE_CHARACTERS), "piece by piece"


async def test_the_beginning_of_a_value_is_gone_on_with_in_a_thread(threads: Threads) -> None:
    redaction = await RunRedaction.of([VALUE])
    shown = await redaction.push(f"it is {VALUE[:25]}")
    threads.seen.clear()
    shown += await redaction.push(VALUE[25:27]) + await redaction.flush()
    assert shown == f"it is {REDACTED}"
    assert threads.on_the_loop("push") == threads.on_the_loop("flush") == {False}


async def test_calls_of_tools_go_to_a_thread_if_there_are_values(threads: Threads) -> None:
    for values, on_the_loop in (([VALUE], False), ([], True)):
        threads.seen.clear()
        redaction = await RunRedaction.of(values)
        use = await redaction.tool_use(ToolUse("t1", f"say {VALUE}", {"text": [VALUE]}))
        shown = VALUE if on_the_loop else REDACTED
        assert use == ToolUse("t1", f"say {shown}", {"text": [shown]})
        assert threads.on_the_loop("document" if on_the_loop else "push") == {on_the_loop}


async def test_between_the_parts_of_a_long_call_others_have_their_turn() -> None:
    redaction, other = await RunRedaction.of([VALUE]), await RunRedaction.of([VALUE])
    long = asyncio.ensure_future(redaction.tool_use(ToolUse("t1", "say", {"texts": [VALUE] * 20_000})))
    short = asyncio.ensure_future(other.whole(VALUE))
    done, _ = await asyncio.wait((long, short), return_when=asyncio.FIRST_COMPLETED)
    assert done == {short}
    assert (await long).input == {"texts": [REDACTED] * 20_000}


async def test_without_values_nothing_goes_to_a_thread(threads: Threads) -> None:
    redaction = await RunRedaction.of([])
    text = "plain " * 20_000
    assert await redaction.whole(text) == await redaction.push(text) == text
    assert threads.on_the_loop("push") == {True}


async def test_one_run_in_a_thread_leaves_the_event_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    push = RedactedStream.push

    def slow(stream: RedactedStream, piece: str) -> str:
        if VALUE in piece:
            entered.set()
            assert go_on.wait(30)
        return push(stream, piece)

    monkeypatch.setattr(RedactedStream, "push", slow)
    redaction = await RunRedaction.of([VALUE])
    whole = asyncio.ensure_future(redaction.whole(VALUE))
    try:
        await asyncio.to_thread(entered.wait, 30)
        assert await redaction.push("another text, ") == "another text, "
        assert not whole.done()
    finally:
        go_on.set()
    assert await whole == REDACTED
