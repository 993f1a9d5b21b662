"""What tests of the engine need on both sides of the gateway: a scripted upstream and a listener that remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.events import AgentOutput
from cloutagent_server.engine.base import CallEnd, PlannedCall

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class RememberingListener:
    """A `RunListener` that records what it is told and lets every call out, at most `allowance` tokens long."""

    allowance: int = 1_000_000
    refusal: Exception | None = None
    outputs: list[AgentOutput] = field(default_factory=list)
    reports: list[tuple[str, TokenUsage]] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)
    planned: list[PlannedCall] = field(default_factory=list)
    ends: list[tuple[CallEnd, TokenUsage | None]] = field(default_factory=list)

    async def on_output(self, output: AgentOutput) -> None:
        self.outputs.append(output)

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        self.reports.append((call_id, usage))

    async def before_call(self, call: PlannedCall) -> int:
        self.asked.append((call.model, call.max_tokens))
        self.planned.append(call)
        if self.refusal is not None:
            raise self.refusal
        return min(call.max_tokens, self.allowance)

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        self.ends.append((end, usage))

    @property
    def calls(self) -> dict[str, TokenUsage]:
        """The last report of each call."""
        return dict(self.reports)


@dataclass(frozen=True)
class Received:
    """A request as the upstream got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Upstream:
    """A server in the vendor's place that answers with `reply` and keeps what it received."""

    reply: Reply
    url: str = ""
    received: list[Received] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path_qs, headers, await request.json()))
        try:
            return await self.reply(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def running_upstream(reply: Reply) -> AsyncIterator[Upstream]:
    """An upstream on a free port of 127.0.0.1."""
    upstream = Upstream(reply)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", upstream.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    upstream.url = f"http://{host}:{port}"
    try:
        yield upstream
    finally:
        await runner.cleanup()


def stream_events(prompt_tokens: int, completion_tokens: int, text: str = "Hello") -> list[bytes]:
    """The events of a streamed answer, one `bytes` each."""
    documents: Sequence[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude-sonnet-4-5",
                "content": [],
                "stop_reason": None,
                "usage": {"input_tokens": prompt_tokens, "output_tokens": 1},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": completion_tokens},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {d['type']}\ndata: {json.dumps(d)}\n\n".encode() for d in documents]


def streaming(chunks: Sequence[bytes], headers: dict[str, str] | None = None) -> Reply:
    """A reply that streams `chunks`."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **(headers or {})})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        return response

    return reply


def answering(document: object, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """A reply with a JSON document."""

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.json_response(document, status=status, headers=headers)

    return reply


def failing(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    """A reply with an error of the vendor."""
    return answering({"type": "error", "error": {"type": kind, "message": message}}, status, headers)
