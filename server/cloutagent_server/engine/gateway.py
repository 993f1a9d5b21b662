"""The model gateway: the only way from an agent to the vendor, and the place where its calls are metered.

An agent gets a one-time token for a loopback endpoint instead of the API key. Each of its calls is cleared with the
run's listener, follows the agent's configuration, goes out with the real key, and is metered as its answer passes by.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import resource
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web
from yarl import URL

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.mcp import HttpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import mcp_relay, messages_api
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall, PriceList
from cloutagent_server.engine.connections import BoundedSite
from cloutagent_server.engine.input_bound import counted_part, facts_of
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.mcp_relay import McpRelay
from cloutagent_server.engine.metering import CallMeter, StreamMeter, error_of, tells_output

_MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
_CONNECT_SECONDS: Final = 10.0
_COUNT_SECONDS: Final = 15.0
CALLS_AT_ONCE: Final = 64
"""How many requests of one run are worked at. Its subagents make some at once; what passes this is answered 429."""
CONNECTIONS: Final = CALLS_AT_ONCE + 8
"""How many connections a listener of its own may have; more wait until one of them ends."""
_SHARED_CONNECTIONS: Final = 1024
# How long a connection may be idle, also before its first request.
_IDLE_SECONDS: Final = 60.0
SILENCE_SECONDS: Final = 90.0
"""How long the vendor may send nothing, before an answer and in it; while a model works, its stream has pings.

The agent gives up after three such calls, within the timeout that a run has by default, and never waits longer itself.
"""
_REMEMBERED_COUNTS: Final = 1000


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
    """

    def __init__(self, credential: Credential, config: AgentConfig, listener: OrderedListener) -> None:
        self.token = credential.token
        self.base_url = credential.base_url
        self.config = config
        self.listener = listener
        self.calls: dict[str, TokenUsage] = {}
        self.last_error: VendorError | None = None
        self._handlers: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether the run has as many requests under way as it may."""
        return len(self._handlers) >= CALLS_AT_ONCE

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Mark the current task as one that works for this session, so that it can be cut."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            yield
        finally:
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


class ModelGateway:
    """A Messages API on loopback that forwards to `upstream_base_url` with `api_key`.

    `api_key` is None only for an upstream that needs none. Nothing that the gateway answers, raises or logs holds it.
    `mcp` is how an agent reaches its MCP servers; by default only public ones.
    """

    def __init__(
        self,
        upstream_base_url: str,
        api_key: str | None,
        prices: PriceList,
        mcp: McpRelay | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.mcp = mcp or McpRelay()
        self._silence_seconds = silence_seconds
        self._upstream = upstream_base_url.rstrip("/")
        self._api_key = api_key
        self._prices = prices
        self._sessions: set[GatewaySession] = set()
        self._runner: web.AppRunner | None = None
        self._site: BoundedSite | None = None
        self._client: aiohttp.ClientSession | None = None
        self._base_url = ""
        self._added: dict[str, int] = {}

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1, keepalive_timeout=_IDLE_SECONDS
        )
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        self._base_url = f"http://{host}:{port}"
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _SHARED_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_SHARED_CONNECTIONS, soft // 4)
        self._site = await self.serve(listener, most)
        await self.mcp.start()
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=self._silence_seconds),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    async def serve(self, listener: socket.socket, most: int = CONNECTIONS) -> BoundedSite:
        """Answer on one more listener, `most` connections at a time, until what this returns is stopped."""
        assert self._runner is not None and self._runner.server is not None
        site = BoundedSite(self._runner.server, listener, most)
        site.start()
        return site

    async def stop(self) -> None:
        """Close every session and the endpoint."""
        for session in tuple(self._sessions):
            await self.close(session)
        if self._site is not None:
            await self._site.stop()
            self._site = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._client is not None:
            await self._client.close()
            self._client = None
        await self.mcp.stop()

    def credential(self) -> Credential:
        """A new credential."""
        return Credential(secrets.token_urlsafe(32), self._base_url)

    def open(
        self, config: AgentConfig, listener: OrderedListener, credential: Credential | None = None
    ) -> GatewaySession:
        """Give a run access, by default with a new credential.

        Its calls follow `config` and are cleared with and reported to `listener`.
        """
        session = GatewaySession(credential or self.credential(), config, listener)
        self._sessions.add(session)
        return session

    def cut(self, session: GatewaySession) -> None:
        """End a run's access at once: its token is refused from now on and its calls under way are cut."""
        self._sessions.discard(session)
        session.cut()

    async def close(self, session: GatewaySession) -> None:
        """End a run's access; when this returns, all its usage has been reported. Closing again does nothing."""
        self.cut(session)
        await session.settle()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith(mcp_relay.PATH):
            return await self._relay_mcp(request, path.removeprefix(mcp_relay.PATH))
        if request.method != "POST" or path not in (messages_api.MESSAGES_PATH, messages_api.COUNT_TOKENS_PATH):
            return _error(404, "not_found_error", "the gateway serves the Messages API only")
        session = self._session_of(messages_api.credential(request.headers))
        if session is None:
            return _error(401, "authentication_error", "the credential is not valid")
        if session.busy:
            return _error(429, "rate_limit_error", "the run has too many calls under way")
        with session.handling():
            try:
                body = json.loads(await request.read())
            except web.HTTPRequestEntityTooLarge:
                return _error(413, "request_too_large", "the request is larger than the Messages API takes")
            except ValueError:
                return _error(400, "invalid_request_error", "the request is not JSON")
            model = body.get("model") if isinstance(body, dict) else None
            if not isinstance(model, str) or not self._prices.knows(model):
                return _error(400, "invalid_request_error", "model: the price list does not know this model")
            if path == messages_api.MESSAGES_PATH:
                return await self._call(request, session, model, body)
            return await self._forward(request, session, body, None)

    async def _relay_mcp(self, request: web.Request, name: str) -> web.StreamResponse:
        session = self._session_of(messages_api.credential(request.headers))
        if session is None:
            return _error(401, "authentication_error", "the credential is not valid")
        server = session.config.mcp_servers.get(name)
        if not isinstance(server, HttpServer):
            return _error(404, "not_found_error", "the agent has no such MCP server")
        if session.busy:
            return _error(429, "rate_limit_error", "the run has too many calls under way")
        with session.handling():
            return await self.mcp.forward(request, server)

    def _session_of(self, token: str) -> GatewaySession | None:
        given = token.encode()
        for session in self._sessions:
            if hmac.compare_digest(given, session.token.encode()):
                return session
        return None

    async def _call(
        self, request: web.Request, session: GatewaySession, model: str, body: dict[str, Any]
    ) -> web.StreamResponse:
        wanted = body.get("max_tokens")
        most = min(wanted, session.config.max_tokens) if type(wanted) is int else session.config.max_tokens
        if most < 1:
            return _error(400, "invalid_request_error", "max_tokens: must be at least 1")
        call = _Call(new_id(), CallMeter(model))
        messages_api.configure(body, session.config, most)
        try:
            planned = self._planned(request, call.id, model, most, body)
            allowed = min(most, await session.listener.before_call(planned))
            if allowed < 1:
                return _error(402, "billing_error", "the budget of this run allows no more output")
            messages_api.configure(body, session.config, allowed)
            return await self._forward(request, session, body, call)
        except CallRefused as refusal:
            return _error(402, "billing_error", str(refusal))
        finally:
            await session.listener.after_call(call.id, call.end, call.meter.usage)

    def _planned(
        self, request: web.Request, call_id: str, model: str, max_tokens: int, body: dict[str, Any]
    ) -> PlannedCall:
        """The call as the listener is asked about it.

        What the vendor adds to the input for tools and the like is counted with the first request that has them: the
        count of that request is a bound of it for all further ones.
        """
        facts = facts_of(body)
        # What the vendor adds depends on the betas that are asked for, too.
        betas = tuple(request.headers.getall("anthropic-beta", ()))
        digest = hashlib.sha256(repr((facts.added_for, betas)).encode(errors="surrogatepass")).hexdigest()
        added = 0 if facts.added_for is None else self._added.get(digest)
        counted = json.dumps(counted_part(body)).encode()

        async def count_input() -> int | None:
            tokens = await self._count(request, counted)
            if tokens is not None and facts.added_for is not None:
                while len(self._added) >= _REMEMBERED_COUNTS:
                    del self._added[next(iter(self._added))]
                self._added[digest] = min(tokens, self._added.get(digest, tokens))
            return tokens

        bound = None if facts.text_bytes is None or added is None else facts.text_bytes + added
        return PlannedCall(
            call_id,
            model,
            max_tokens,
            bound,
            count_input,
            facts.cache_write,
            facts.cache_write_1h,
            facts.unbounded,
        )

    async def _count(self, request: web.Request, counted: bytes) -> int | None:
        assert self._client is not None
        headers = messages_api.request_headers(request.headers, self._api_key)
        url = URL(self._upstream + messages_api.COUNT_TOKENS_PATH)
        timeout = aiohttp.ClientTimeout(total=_COUNT_SECONDS)
        try:
            async with self._client.post(url, data=counted, headers=headers, timeout=timeout) as answer:
                document = _json_or_none(await answer.read()) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None
        tokens = document.get("input_tokens") if isinstance(document, dict) else None
        return tokens if type(tokens) is int and tokens >= 0 else None

    async def _forward(
        self, request: web.Request, session: GatewaySession, body: dict[str, Any], call: _Call | None
    ) -> web.StreamResponse:
        assert self._client is not None
        session.last_error = None
        url = URL(self._upstream + request.rel_url.raw_path_qs, encoded=True)
        headers = messages_api.request_headers(request.headers, self._api_key)
        data = io.BytesIO(json.dumps(body).encode())
        call = call or _Call("", CallMeter(""))
        call.end = CallEnd.CUT
        try:
            answer = await self._client.post(url, data=data, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError) as fault:
            if isinstance(fault, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
                call.end = CallEnd.FREE
            elif isinstance(fault, TimeoutError):
                session.last_error = self._silence()
                return _error(504, "timeout_error", "the model's API does not answer")
            session.last_error = VendorError(None, "it cannot be reached")
            return _error(502, "api_error", "the model's API cannot be reached")
        try:
            if answer.status != 200:
                call.end = CallEnd.FREE
            elif call.id and answer.content_type == "text/event-stream":
                return await self._relay_stream(request, session, answer, call)
            return await self._relay_document(session, answer, call)
        finally:
            answer.close()

    def _silence(self) -> VendorError:
        return VendorError(None, f"it sent nothing for {self._silence_seconds:g} s")

    async def _relay_document(
        self, session: GatewaySession, answer: aiohttp.ClientResponse, call: _Call
    ) -> web.Response:
        try:
            data = await answer.read()
        except TimeoutError:
            session.last_error = self._silence()
            return _error(504, "timeout_error", "the answer of the model's API stopped")
        except aiohttp.ClientError:
            session.last_error = VendorError(None, "its answer broke off")
            return _error(502, "api_error", "the answer of the model's API broke off")
        if self._api_key:
            data = data.replace(self._api_key.encode(), b"[redacted]")
        document = _json_or_none(data)
        if answer.status >= 400:
            error = error_of(document)
            session.last_error = VendorError(answer.status, error.message if error else answer.reason or "")
        elif call.id and isinstance(document, Mapping):
            call.meter.report(document.get("usage"))
            if tells_output(document.get("usage")):
                call.end = CallEnd.TOLD
            await session.report(call.id, call.meter.usage)
        return web.Response(status=answer.status, body=data, headers=messages_api.response_headers(answer.headers))

    async def _relay_stream(
        self, request: web.Request, session: GatewaySession, answer: aiohttp.ClientResponse, call: _Call
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=messages_api.response_headers(answer.headers))
        stream = StreamMeter(call.meter)
        whole = False
        await response.prepare(request)
        try:
            while chunk := await answer.content.readany():
                stream.feed(chunk)
                if not await session.report(call.id, call.meter.usage) or not await _written(response, chunk):
                    break
            else:
                whole = True
        except TimeoutError:
            session.last_error = self._silence()
        except aiohttp.ClientError:
            session.last_error = VendorError(None, "its answer broke off")
        finally:
            stream.end()
            if stream.final:
                call.end = CallEnd.TOLD
            elif stream.error is not None and call.meter.usage is None:
                call.end = CallEnd.FREE
            await session.report(call.id, call.meter.usage)
        if stream.error is not None:
            session.last_error = VendorError(None, stream.error.message)
        if not whole and request.transport is not None:
            # What was cut must look cut to the agent, too: the body gets no regular end.
            request.transport.close()
        return response


async def _written(response: web.StreamResponse, chunk: bytes) -> bool:
    try:
        await response.write(chunk)
    except ConnectionError:
        return False
    return True


@dataclass(slots=True)
class _Call:
    """A call under way. `end` is how its bill would stand if it ended now."""

    id: str
    meter: CallMeter
    end: CallEnd = CallEnd.FREE


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.Response(status=status, body=messages_api.error_body(kind, message), content_type="application/json")


def _json_or_none(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
