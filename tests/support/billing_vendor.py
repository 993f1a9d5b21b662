"""A vendor that keeps its own bill: what it charges for each call, whatever it told about it.

A request says in its header `CALL_HEADER`, as JSON, how the vendor is to treat it; see `Call`. Prices come straight
from genai-prices, and token counts from the call's own fields, so that nothing here shares code with what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import genai_prices
from aiohttp import web

# The gateway lets headers of such names through.
CALL_HEADER = "x-stainless-call"
NUMBER_HEADER = "x-stainless-number"
RUN_HEADER = "x-stainless-run"
MODELS = ("claude-sonnet-4-5", "claude-haiku-5-5")


@dataclass(frozen=True)
class Call:
    """One model call: what the agent asks for, and what the vendor makes of it.

    Attributes:
        text: Bytes of the prompt's text. `bytes_a_token` of them are a token.
        hidden: Tokens that the vendor adds for tools; 0 for a call without tools.
        image: Tokens of an image; 0 without one.
        cache: `none`, `5m` or `1h`: what the request allows. Of 100 parts of the input, `read` are read and `written`
            are written.
        max_tokens: What the agent asks for. `wants` is what the model would write.
        fault: What goes wrong; see `BillingVendor`.
        count_fails: Whether the vendor refuses to count this call's input.
    """

    model: str = MODELS[0]
    text: int = 10
    bytes_a_token: int = 4
    hidden: int = 0
    image: int = 0
    cache: str = "none"
    read: int = 0
    written: int = 0
    max_tokens: int = 50
    wants: int = 20
    stream: bool = True
    fault: str = "none"
    count_fails: bool = False

    @property
    def input_tokens(self) -> int:
        """What the vendor takes the input for."""
        return -(-self.text // self.bytes_a_token) + self.hidden + self.image

    def body(self) -> dict[str, Any]:
        """The request."""
        block: dict[str, Any] = {"type": "text", "text": "x" * self.text}
        if self.cache != "none":
            block["cache_control"] = {"type": "ephemeral", **({"ttl": "1h"} if self.cache == "1h" else {})}
        content = [block]
        if self.image:
            content.append({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}})
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "stream": self.stream,
            "messages": [{"role": "user", "content": content}],
        }
        if self.hidden:
            # Tools with another hidden prompt are other tools.
            body["tools"] = [{"name": f"tool_{self.hidden}", "input_schema": {"type": "object"}}]
        return body

    def header(self) -> str:
        """How the vendor is told."""
        return json.dumps(asdict(self))

    def usage(self, output_tokens: int) -> dict[str, Any]:
        """The usage that the vendor bills, in the API's form."""
        read = self.input_tokens * self.read // 100 if self.cache != "none" else 0
        written = self.input_tokens * self.written // 100 if self.cache != "none" else 0
        return {
            "input_tokens": self.input_tokens - read - written,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": written,
            "cache_creation": {"ephemeral_1h_input_tokens": written if self.cache == "1h" else 0},
            "output_tokens": output_tokens,
        }

    def price(self, output_tokens: int, *, dearest: bool = False, input_tokens: int | None = None) -> Decimal:
        """What the call costs; with `dearest`, if all its input went the most expensive way that it allows.

        `input_tokens` is how many of them there are then, by default as many as there are.
        """
        usage = self.usage(output_tokens)
        if input_tokens is None:
            input_tokens = self.input_tokens
        written = usage["cache_creation_input_tokens"]
        hour = usage["cache_creation"]["ephemeral_1h_input_tokens"]
        read = usage["cache_read_input_tokens"]
        if dearest:
            read, written = 0, 0 if self.cache == "none" else input_tokens
            hour = written if self.cache == "1h" else 0
        tokens = genai_prices.Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=hour,
        )
        return genai_prices.calc_price(tokens, self.model, provider_id="anthropic").total_price


@dataclass
class Bill:
    """A call that the vendor took. `asked` is the `max_tokens` that reached it, `number` the agent's for the call."""

    run: str
    number: str
    call: Call
    asked: int
    tokens: int
    cost: Decimal


@dataclass
class BillingVendor:
    """The vendor. A call that it takes is billed at once for all that the model writes, told or not.

    Faults: `error` (529, not billed), `event` (an error event after the start), `early_event` (an error event and
    nothing before it, not billed), `cut` (cut after the start), `gone` (closed without an answer), `hang` (silent after
    the start until the agent leaves), `garbage` (no usage that can be read), `no_final` (ends without the final usage).

    `heard` is set by the agent, by the number of a call, when its start has come: a stream is cut after that alone, so
    that it is known what was told before.
    """

    bills: list[Bill] = field(default_factory=list)
    heard: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    on_call: Callable[[], None] = lambda: None
    url: str = ""
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop listening."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _count(self, request: web.Request) -> web.Response:
        call = Call(**json.loads(request.headers[CALL_HEADER]))
        if call.count_fails:
            return web.json_response({"type": "error", "error": {"type": "api_error", "message": "no"}}, status=500)
        return web.json_response({"input_tokens": call.input_tokens})

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        call = Call(**json.loads(request.headers[CALL_HEADER]))
        body = await request.json()
        assert request.transport is not None
        if call.fault == "error":
            error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
            return web.json_response(error, status=529)
        output = min(call.wants, body["max_tokens"])
        usage = call.usage(output)
        if call.fault != "early_event":
            run, number = request.headers[RUN_HEADER], request.headers[NUMBER_HEADER]
            tokens, cost = call.input_tokens + output, call.price(output)
            self.bills.append(Bill(run, number, call, body["max_tokens"], tokens, cost))
        self.on_call()
        if call.fault == "gone":
            request.transport.close()
            return web.Response()
        if not call.stream:
            text = "{no json" if call.fault != "none" else json.dumps({"type": "message", "usage": usage})
            return web.Response(text=text, content_type="application/json")
        return await self._stream(request, call, usage)

    async def _stream(self, request: web.Request, call: Call, usage: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        assert request.transport is not None
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        if call.fault in ("early_event", "garbage"):
            await response.write(b"data: {no json\n\n" if call.fault == "garbage" else _event(error))
            return response
        await response.write(_event({"type": "message_start", "message": {"usage": {**usage, "output_tokens": 1}}}))
        if call.fault == "cut":
            await self.heard[request.headers[NUMBER_HEADER]].wait()
            request.transport.close()
        elif call.fault == "hang":
            await asyncio.Event().wait()
        elif call.fault == "event":
            await response.write(_event(error))
        elif call.fault == "no_final":
            await response.write(_event({"type": "message_stop"}))
        else:
            final = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
            await response.write(_event(final) + _event({"type": "message_stop"}))
        return response


def _event(document: dict[str, Any]) -> bytes:
    return f"event: {document['type']}\ndata: {json.dumps(document)}\n\n".encode()
