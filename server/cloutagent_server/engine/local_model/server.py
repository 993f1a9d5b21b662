"""The HTTP side of the local model."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Final

from aiohttp import web

from cloutagent_server.engine.local_model import script
from cloutagent_server.engine.local_model.ledger import Call, Ledger
from cloutagent_server.engine.local_model.library import ScriptLibrary
from cloutagent_server.engine.local_model.reply import ConnectionCut, Event, GarbageDue, Reply, whole_message
from cloutagent_server.engine.local_model.request import ApiError, MessagesRequest, read_request
from cloutagent_server.engine.local_model.tokens import compact_json, count_input
from cloutagent_server.host_check import middlewares_at

LOG = logging.getLogger(__name__)
SCRIPT_HEADER: Final = "x-local-model-script"
SESSION_HEADER: Final = "x-claude-code-session-id"
MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
MAX_QUOTE_CHARACTERS: Final = 200
MAX_REMEMBERED_STRIKES: Final = 10_000
_GARBAGE: Final = b"event: content_block_delta\ndata: {this is no JSON\n\n"
_SHUTDOWN_SECONDS: Final = 0.5


class LocalModel:
    """The local model as an HTTP server. `start`, use `base_url`, `stop`."""

    def __init__(self, required_key: str | None = None, scripts: ScriptLibrary | None = None) -> None:
        """With a `required_key` any other API key is refused; without one any key but the empty one is taken.

        `scripts` answer the prompts without directives that they fit.
        """
        self._required_key = required_key
        self._scripts = scripts or ScriptLibrary()
        self._ledger = Ledger()
        self._struck: dict[str, None] = {}
        self._runner: web.AppRunner | None = None
        self._base_url = ""

    @property
    def base_url(self) -> str:
        """Address to use as ANTHROPIC_BASE_URL; empty before `start`."""
        return self._base_url

    @property
    def ledger(self) -> Ledger:
        """The calls so far."""
        return self._ledger

    @property
    def notice(self) -> str:
        """What people must know about this server, in one line."""
        return f"local model at {self._base_url}: a scripted development stand-in, no language model answers here"

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free port.

        Raises:
            OSError: The port is taken.
        """
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=middlewares_at(host))
        app.router.add_get("/", self._describe)
        app.router.add_get("/ledger", self._show_ledger)
        app.router.add_post("/v1/messages", self._messages)
        app.router.add_post("/v1/messages/count_tokens", self._count_tokens)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS, handle_signals=False
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._base_url = f"http://{host}:{runner.addresses[0][1]}"
        LOG.info(self.notice)

    async def stop(self) -> None:
        """End all answers that are under way and stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _describe(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "local model", "notice": self.notice, "ledger": "/ledger"})

    async def _show_ledger(self, _: web.Request) -> web.Response:
        return web.json_response(self._ledger.as_json())

    async def _count_tokens(self, http: web.Request) -> web.StreamResponse:
        with self._entered("count_tokens", http) as call:
            try:
                request = await self._admit(http, call)
            except ApiError as error:
                return _error_response(error, call)
            call.status, call.outcome = 200, "complete"
            call.input_tokens = count_input(request.body)
            return _json_response({"input_tokens": call.input_tokens}, call)

    async def _messages(self, http: web.Request) -> web.StreamResponse:
        with self._entered("messages", http) as call:
            try:
                request = await self._admit(http, call)
                steps = _steps(http.headers.get(SCRIPT_HEADER), request, self._scripts)
                events = Reply(request, call, lambda position: self._strikes(request, call, position)).events(steps)
                async with aclosing(events):
                    return await (_stream(http, call, events) if request.stream else _whole(call, events))
            except ApiError as error:
                return _error_response(error, call)
            except ConnectionCut:
                call.outcome = "cut"
                if http.transport is not None:
                    http.transport.close()
                return web.Response()

    @contextmanager
    def _entered(self, endpoint: str, http: web.Request) -> Iterator[Call]:
        call = self._ledger.open(endpoint, f"req_{uuid.uuid4().hex[:24]}")
        call.session_id = http.headers.get(SESSION_HEADER, "")
        try:
            yield call
        except (asyncio.CancelledError, ConnectionError):
            call.outcome = "disconnected"
            raise

    async def _admit(self, http: web.Request, call: Call) -> MessagesRequest:
        key = http.headers.get("x-api-key", "")
        if key:
            call.key_digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        if not key or self._required_key not in (None, key):
            raise ApiError(401, "invalid x-api-key" if key else "x-api-key header is required")
        if "anthropic-version" not in http.headers:
            raise ApiError(400, "anthropic-version: header is required")
        try:
            raw = await http.read()
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(413, "Request exceeds the maximum size") from None
        request = read_request(raw, needs_max_tokens=call.endpoint == "messages")
        call.model, call.stream, call.turn = request.model, request.stream, request.tool_results
        call.max_tokens, call.temperature = request.max_tokens, request.temperature
        return request

    def _strikes(self, request: MessagesRequest, call: Call, position: int) -> bool:
        identity = compact_json([call.session_id, request.body.get("metadata"), request.prompt, call.turn, position])
        digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
        if digest in self._struck:
            return False
        self._struck[digest] = None
        if len(self._struck) > MAX_REMEMBERED_STRIKES:
            del self._struck[next(iter(self._struck))]
        return True


def _steps(header: str | None, request: MessagesRequest, scripts: ScriptLibrary) -> Sequence[script.Step]:
    try:
        steps = script.parse(request.prompt if header is None else header) or scripts.answer(request.prompt)
    except script.ScriptError as error:
        raise ApiError(400, str(error)) from error
    if steps:
        return script.turn(steps, request.tool_results)
    quote = " ".join(request.prompt.split())
    if len(quote) > MAX_QUOTE_CHARACTERS:
        quote = quote[:MAX_QUOTE_CHARACTERS] + "…"
    return [script.Say(f"This is the local model, a scripted development stand-in. You wrote: “{quote}”")]


async def _stream(http: web.Request, call: Call, events: AsyncIterator[Event]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"request-id": call.request_id, "cache-control": "no-cache"})
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    try:
        async for event in events:
            if not response.prepared:
                call.status = 200
                await response.prepare(http)
            if event["type"] == "message_stop":
                call.outcome = "complete"
            await response.write(_sse(event))
    except ApiError as error:
        if not response.prepared:
            raise
        call.outcome = "error"
        await response.write(_sse(error.body(call.request_id)))
    except GarbageDue:
        call.status, call.outcome = 200, "garbage"
        if not response.prepared:
            await response.prepare(http)
        await response.write(_GARBAGE)
    await response.write_eof()
    return response


async def _whole(call: Call, events: AsyncIterator[Event]) -> web.Response:
    try:
        message = whole_message([event async for event in events])
    except GarbageDue:
        call.told_nothing()
        call.status, call.outcome = 200, "garbage"
        return web.Response(body=_GARBAGE, content_type="application/json", headers={"request-id": call.request_id})
    except BaseException:
        call.told_nothing()
        raise
    call.status, call.outcome = 200, "complete"
    return _json_response(message, call)


def _sse(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {compact_json(event)}\n\n".encode("utf-8", "replace")


def _json_response(body: object, call: Call) -> web.Response:
    return web.json_response(body, headers={"request-id": call.request_id})


def _error_response(error: ApiError, call: Call) -> web.Response:
    call.status, call.outcome = error.status, "error"
    headers = {"request-id": call.request_id}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return web.json_response(error.body(call.request_id), status=error.status, headers=headers)
