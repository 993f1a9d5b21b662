"""Carrying out the steps of one answer as the events of a Messages API stream."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from cloutagent_server.engine.local_model.ledger import Call
from cloutagent_server.engine.local_model.request import ApiError, MessagesRequest
from cloutagent_server.engine.local_model.script import (
    Cut,
    Delay,
    Error,
    FailOnce,
    Fault,
    Garbage,
    Rate,
    ReportUsage,
    Result,
    Say,
    Silence,
    Step,
    Tool,
)
from cloutagent_server.engine.local_model.tokens import compact_json, count_input, count_text, first_tokens, pieces

PIECE_TOKENS: Final = 16
PIECES_A_SECOND: Final = 20

Event = Mapping[str, object]


class ConnectionCut(Exception):
    """The connection is to be dropped now."""


class GarbageDue(Exception):
    """Something that is no event is to be sent now, and then the end."""


class Reply:
    """One answer. It enters into `call` what its reader has taken."""

    def __init__(self, request: MessagesRequest, call: Call, strikes: Callable[[int], bool]) -> None:
        """`strikes` says whether the [[fail-once]] that is the step of this position strikes now."""
        self._request = request
        self._call = call
        self._strikes = strikes
        self._tokens_left = request.max_tokens or 0
        self._full = False
        self._piece_tokens = PIECE_TOKENS
        self._seconds_a_token = 0.0
        self._due = 0.0
        self._usage = ReportUsage()
        self._started = False
        self._blocks = 0
        self._text_open = False

    async def events(self, steps: Sequence[Step]) -> AsyncGenerator[Event, None]:
        """The events of the answer, each when it is due.

        Raises:
            ApiError: The script asks for an error here.
            ConnectionCut: It asks for a cut.
            GarbageDue: It asks for garbage.
        """
        self._usage = next((step for step in steps if isinstance(step, ReportUsage)), self._usage)
        for position, step in enumerate(steps):
            match step:
                case Say():
                    async for event in self._say(step.text):
                        yield event
                case Result():
                    async for event in self._say(self._request.last_result):
                        yield event
                case Tool():
                    async for event in self._tool(step):
                        yield event
                case Delay():
                    await asyncio.sleep(step.seconds)
                case Rate():
                    self._seconds_a_token = 1 / step.tokens_per_second
                    self._piece_tokens = max(1, int(step.tokens_per_second / PIECES_A_SECOND))
                case FailOnce():
                    if self._strikes(position):
                        await _fail(step.fault)
                case Error() | Cut() | Garbage() | Silence():
                    await _fail(step)
                case ReportUsage():
                    pass
            if self._full:
                break
        if not self._started:
            async for event in self._say("Done."):
                yield event
        for event in self._text_end():
            yield event
        called = bool(steps) and isinstance(steps[-1], Tool)
        stop_reason = "max_tokens" if self._full else "tool_use" if called else "end_turn"
        delta = {"stop_reason": stop_reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": self._usage_now(self._call.output_tokens)}
        self._call.stop_reason = stop_reason
        yield {"type": "message_stop"}

    async def _say(self, text: str) -> AsyncIterator[Event]:
        for event in self._message_start():
            yield event
        allowed = first_tokens(text, self._tokens_left)
        self._full = len(allowed) < len(text)
        if allowed and not self._text_open:
            yield self._block_start({"type": "text", "text": ""})
            self._text_open = True
        async for piece in self._paced(allowed):
            yield self._block_delta({"type": "text_delta", "text": piece})
            self._count(piece)

    async def _tool(self, tool: Tool) -> AsyncIterator[Event]:
        for event in (*self._message_start(), *self._text_end()):
            yield event
        if count_text(tool.name) > self._tokens_left:
            self._full = True
            return
        identifier = f"toolu_{uuid.uuid4().hex[:24]}"
        yield self._block_start({"type": "tool_use", "id": identifier, "name": tool.name, "input": {}})
        self._count(tool.name)
        arguments = compact_json(tool.input)
        allowed = first_tokens(arguments, self._tokens_left)
        self._full = len(allowed) < len(arguments)
        async for piece in self._paced(allowed):
            yield self._block_delta({"type": "input_json_delta", "partial_json": piece})
            self._count(piece)
        yield self._block_stop()

    async def _paced(self, text: str) -> AsyncIterator[str]:
        clock = asyncio.get_running_loop().time
        self._due = max(self._due, clock())
        for piece in pieces(text, self._piece_tokens):
            self._due += count_text(piece) * self._seconds_a_token
            await asyncio.sleep(max(0.0, self._due - clock()))
            yield piece

    def _count(self, text: str) -> None:
        tokens = count_text(text)
        self._tokens_left -= tokens
        self._call.output_tokens += tokens

    def _message_start(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        counted = count_input(self._request.body) if self._usage.input is None else self._usage.input
        self._call.input_tokens = counted
        self._call.cache_read_input_tokens = self._usage.cache_read or 0
        self._call.cache_creation_input_tokens = self._usage.cache_write or 0
        message: dict[str, object] = {
            "id": f"msg_{uuid.uuid4().hex[:24]}",
            "type": "message",
            "role": "assistant",
            "model": self._request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage_now(1),
        }
        return [{"type": "message_start", "message": message}, {"type": "ping"}]

    def _block_start(self, block: dict[str, object]) -> Event:
        return {"type": "content_block_start", "index": self._blocks, "content_block": block}

    def _block_delta(self, delta: dict[str, object]) -> Event:
        return {"type": "content_block_delta", "index": self._blocks, "delta": delta}

    def _block_stop(self) -> Event:
        self._blocks += 1
        return {"type": "content_block_stop", "index": self._blocks - 1}

    def _text_end(self) -> list[Event]:
        if not self._text_open:
            return []
        self._text_open = False
        return [self._block_stop()]

    def _usage_now(self, output_tokens: int) -> dict[str, object]:
        written = self._call.cache_creation_input_tokens
        return {
            "input_tokens": self._call.input_tokens,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": self._call.cache_read_input_tokens,
            "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
            "output_tokens": output_tokens,
            "service_tier": "standard",
        }


async def _fail(fault: Fault) -> None:
    match fault:
        case Error():
            raise ApiError(fault.status, f"the script asks for status {fault.status}", fault.retry_after)
        case Cut():
            raise ConnectionCut
        case Garbage():
            raise GarbageDue
        case Silence():
            await asyncio.Event().wait()


def whole_message(events: Sequence[Event]) -> dict[str, object]:
    """The message that a client puts together from the events of a finished answer."""
    message: dict[str, object] = {}
    content: list[dict[str, object]] = []
    arguments = ""
    for event in events:
        match event:
            case {"type": "message_start", "message": dict(start)}:
                message = {**start, "content": content}
            case {"type": "content_block_start", "content_block": dict(block)}:
                content.append(dict(block))
                arguments = ""
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": str(text)}}:
                content[-1]["text"] = f"{content[-1]['text']}{text}"
            case {"type": "content_block_delta", "delta": {"partial_json": str(piece)}}:
                arguments += piece
            case {"type": "content_block_stop"} if arguments:
                content[-1]["input"] = _complete_object(arguments)
            case {"type": "message_delta", "delta": dict(delta), "usage": dict(usage)}:
                message |= {**delta, "usage": usage}
    return message


def _complete_object(arguments: str) -> object:
    """The object, or an empty one when the token limit cut it."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {}
