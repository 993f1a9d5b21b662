"""The model gateway: the only way from an agent to the vendor, and the place where its calls are metered.

An agent gets a one-time token for a loopback endpoint instead of the API key. Each of its calls is cleared with the
run's listener, follows the agent's configuration, goes out with the real key, and is metered as its answer passes by.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import resource
import secrets
import socket
from dataclasses import replace
from typing import Final

from aiohttp import web
from opentelemetry.trace import NoOpTracer, Tracer

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.mcp import HttpServer
from cloutagent_server.domain.metrics import NO_METRICS, CallOutcome, Metrics
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import mcp_relay, messages_api
from cloutagent_server.engine.base import CallRefused, PlannedCall, PriceList
from cloutagent_server.engine.call_span import call_span
from cloutagent_server.engine.connections import BoundedSite
from cloutagent_server.engine.intake import (
    MOST_BYTES,
    MOST_COUNTED_BYTES,
    SERVER_BYTES,
    NoRoom,
    Reader,
    Room,
    TooLarge,
    holding,
    received,
)
from cloutagent_server.engine.listening import OrderedListener
from cloutagent_server.engine.mcp_relay import McpRelay
from cloutagent_server.engine.metering import CallMeter
from cloutagent_server.engine.model_call import ModelCall, Relay, error_answer
from cloutagent_server.engine.request_body import BadBody, RequestBody
from cloutagent_server.engine.session import CALLS_AT_ONCE, Credential, GatewaySession, VendorError
from cloutagent_server.engine.upstream import SILENCE_SECONDS, Upstream

__all__ = ["SILENCE_SECONDS", "Credential", "GatewaySession", "ModelGateway", "VendorError"]

CONNECTIONS: Final = CALLS_AT_ONCE + 8
"""How many connections a listener of its own may have; more wait until one of them ends."""
_SHARED_CONNECTIONS: Final = 1024
# How long a connection may be idle, also before its first request.
_IDLE_SECONDS: Final = 60.0

_REMEMBERED_COUNTS: Final = 1000


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
        metrics: Metrics = NO_METRICS,
        tracer: Tracer | None = None,
    ) -> None:
        self.mcp = mcp or McpRelay()
        self._upstream = Upstream(upstream_base_url, api_key, silence_seconds)
        self._prices = prices
        self._metrics = metrics
        self._tracer = NoOpTracer() if tracer is None else tracer
        self._sessions: set[GatewaySession] = set()
        self._room = Room(SERVER_BYTES)
        self._reader = Reader()
        self._runner: web.AppRunner | None = None
        self._site: BoundedSite | None = None
        self._base_url = ""
        self._added: dict[str, int] = {}

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A body that is packed stays so, and is none then: a few bytes of it could be many.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1,
            keepalive_timeout=_IDLE_SECONDS,
            auto_decompress=False,
        )
        await self._runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        host, port = listener.getsockname()
        self._base_url = f"http://{host}:{port}"
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _SHARED_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_SHARED_CONNECTIONS, soft // 4)
        self._site = await self.serve(listener, most)
        await self.mcp.start()
        await self._upstream.start()

    @property
    def listening(self) -> bool:
        """Whether agents reach the gateway."""
        return self._site is not None and self._site.serving

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
        await self._upstream.stop()
        await self.mcp.stop()
        self._reader.stop()

    def credential(self) -> Credential:
        """A new credential."""
        return Credential(secrets.token_urlsafe(32), self._base_url)

    def open(
        self, config: AgentConfig, listener: OrderedListener, credential: Credential | None = None
    ) -> GatewaySession:
        """Give a run access, by default with a new credential.

        Its calls follow `config` and are cleared with and reported to `listener`.
        """
        session = GatewaySession(credential or self.credential(), config, listener, self._room)
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
        mcp = request.path.startswith(mcp_relay.PATH)
        # As it is written, and not what that may stand for: this path goes on to the vendor.
        path = request.rel_url.raw_path
        counts = path == messages_api.COUNT_TOKENS_PATH
        if not mcp and (request.method != "POST" or not (counts or path == messages_api.MESSAGES_PATH)):
            return error_answer(404, "not_found_error", "the gateway serves the Messages API only")
        session = self._session_of(messages_api.credential(request.headers))
        if session is None:
            return error_answer(401, "authentication_error", "the credential is not valid")
        if not messages_api.is_text(request.headers):
            return error_answer(400, "invalid_request_error", "the headers are not UTF-8")
        if session.busy or (counts and session.counting):
            return error_answer(429, "rate_limit_error", "the run has too many calls under way")
        try:
            with session.handling(counts=counts), holding(session.room) as held:
                if mcp:
                    return await self._relay_mcp(request, session, await received(request, held))
                raw = await received(request, held, MOST_COUNTED_BYTES if counts else MOST_BYTES)
                body = await self._reader.read(raw)
                del raw
                if not self._prices.knows(body.model):
                    raise BadBody("model: the price list does not know this model")
                if counts:
                    return await Relay(self._upstream, session, request).send(path, body.counted())
                return await self._call(request, session, body)
        except TooLarge:
            return error_answer(413, "request_too_large", "the request is larger than the Messages API takes")
        except NoRoom:
            return error_answer(429, "rate_limit_error", "the requests under way are too large together")
        except BadBody as fault:
            return error_answer(400, "invalid_request_error", str(fault))

    async def _relay_mcp(self, request: web.Request, session: GatewaySession, data: bytearray) -> web.StreamResponse:
        server = session.config.mcp_servers.get(request.path.removeprefix(mcp_relay.PATH))
        if not isinstance(server, HttpServer):
            return error_answer(404, "not_found_error", "the agent has no such MCP server")
        return await self.mcp.forward(request, server, data)

    def _session_of(self, token: str) -> GatewaySession | None:
        # Bytes that are not UTF-8 come as halves of surrogate pairs.
        given = token.encode(errors="surrogateescape")
        for session in self._sessions:
            if hmac.compare_digest(given, session.token.encode()):
                return session
        return None

    async def _call(self, request: web.Request, session: GatewaySession, body: RequestBody) -> web.StreamResponse:
        config, wanted = session.config, body.max_tokens
        most = min(wanted, config.max_tokens) if type(wanted) is int else config.max_tokens
        if most < 1:
            raise BadBody("max_tokens: must be at least 1")
        call = ModelCall(new_id(), CallMeter(body.model), self._prices)
        body = body.configured(config, most)
        with call_span(self._tracer, session.trace, body.model, call):
            return await self._metered(request, session, body, most, call)

    async def _metered(
        self, request: web.Request, session: GatewaySession, body: RequestBody, most: int, call: ModelCall
    ) -> web.StreamResponse:
        decided: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        planned = replace(
            self._planned(request, call.id, most, body),
            decided=lambda tokens: None if decided.done() else decided.set_result(tokens),
        )
        asked = session.listener.before_call(planned)
        try:
            await asyncio.wait({decided, asked}, return_when=asyncio.FIRST_COMPLETED)
            allowed = min(most, asked.result() if asked.done() else decided.result())
            if allowed < 1:
                call.outcome = CallOutcome.REFUSED
                return error_answer(402, "billing_error", "the budget of this run allows no more output")
            data = body.configured(session.config, allowed).whole()
            return await Relay(self._upstream, session, request, call).send(messages_api.MESSAGES_PATH, data, asked)
        except CallRefused as refusal:
            call.outcome = CallOutcome.REFUSED
            return error_answer(402, "billing_error", str(refusal))
        finally:
            asked.cancel()
            self._metrics.model_call_ended(body.model, call.outcome, call.first_byte)
            await session.listener.after_call(call.id, call.end, call.usage)

    def _planned(self, request: web.Request, call_id: str, max_tokens: int, body: RequestBody) -> PlannedCall:
        """The call as the listener is asked about it.

        What the vendor adds to the input for tools and the like is counted with the first request that has them: the
        count of that request is a bound of it for all further ones.
        """
        facts, added_for = body.facts, body.added_for
        # What the vendor adds depends on the betas that are asked for, too.
        digest = hashlib.sha256(repr((added_for, messages_api.betas(request.headers))).encode()).hexdigest()
        added = 0 if added_for is None else self._added.get(digest)

        async def count_input() -> int | None:
            tokens = await self._upstream.count(body.counted(), request.headers)
            if tokens is not None and added_for is not None:
                while len(self._added) >= _REMEMBERED_COUNTS:
                    del self._added[next(iter(self._added))]
                self._added[digest] = min(tokens, self._added.get(digest, tokens))
            return tokens

        bounded = facts.is_text and facts.unbounded is None
        return PlannedCall(
            call_id,
            body.model,
            max_tokens,
            body.text_bytes + added if bounded and added is not None else None,
            count_input,
            facts.cache_write,
            facts.cache_write_1h,
            facts.unbounded,
        )
