"""The API without a network: its servicers behind its interceptors, called with a context of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn

from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from cloutagent_server.transport.interceptors import Nested
from cloutagent_server.transport.server import Services, add_servicers, arounds_for
from tests.support.api.driver import TextAnswer
from tests.support.api.failure import ApiFailure
from tests.support.api.json_form import METHODS, Json, to_json

_STATUS_METADATA = "grpc-status-details-bin"


class _Aborted(Exception):
    """The servicer gave the call up."""


class _Context:
    """The part of a servicer's context that the API uses. It poses as a transcoded call, to see the HTTP status."""

    def __init__(self, metadata: Mapping[str, str | None]) -> None:
        given = {**metadata, "x-envoy-original-path": "/"}
        self._metadata = tuple((name, value) for name, value in given.items() if value is not None)
        self.initial: dict[str, str] = {}
        self.failure: ApiFailure | None = None
        self.written: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller sent."""
        return self._metadata

    def peer(self) -> str:
        """Where the call comes from."""
        return "ipv4:127.0.0.1:50000"

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Keep what the servicer sends."""
        assert not self.initial, "initial metadata was sent twice"
        self.initial = dict(metadata)

    async def write(self, answer: Any) -> None:
        """Hand a message of a stream over."""
        await self.written.put(answer)

    async def abort_with_status(self, status: Any) -> NoReturn:
        """End the call."""
        packed = dict(status.trailing_metadata)[_STATUS_METADATA]
        self.failure = ApiFailure.of_status(status_pb2.Status.FromString(packed))
        raise _Aborted


class _Collector:
    """Takes handlers as a gRPC server does."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same handlers come by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Keep the handlers of a service."""
        self.handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}


class _Details:
    """What an interceptor is told of a call."""

    def __init__(self, method: str) -> None:
        self.method = method


class InProcessApi:
    """`Api` in this process. Messages pass through their wire form, and each call has a task of its own."""

    def __init__(self, services: Services) -> None:
        collector = _Collector()
        add_servicers(services, collector)
        self._handlers = collector.handlers
        self._interceptor = Nested(*arounds_for(services))

    async def call(
        self,
        rpc: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        http: int = 200,
        idempotency_key: str | None = None,
    ) -> Json:
        """See `Api.call`."""
        context = _Context({"x-api-key": key, "idempotency-key": idempotency_key})
        answer = await asyncio.create_task(self._unary(rpc, body or {}, context))
        assert int(context.initial.get("x-http-code", "200")) == http
        return answer

    async def events(self, rpc: str, body: Mapping[str, Any], key: str | None = None) -> AsyncIterator[Json]:
        """See `Api.events`."""
        async with aclosing(self._stream(rpc, body, _Context({"x-api-key": key}))) as answers:
            async for answer in answers:
                for event in to_json(answer)["events"]:
                    yield event

    @asynccontextmanager
    async def text(
        self,
        rpc: str,
        body: Mapping[str, Any],
        key: str | None = None,
        *,
        accept: str | None = None,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncIterator[TextAnswer]:
        """See `Api.text`."""
        context = _Context(
            {"x-api-key": key, "accept": accept, "last-event-id": last_event_id, "idempotency-key": idempotency_key}
        )
        async with aclosing(self._stream(rpc, body, context)) as answers:
            first = await anext(answers)

            async def chunks() -> AsyncIterator[bytes]:
                yield first.data
                async for answer in answers:
                    yield answer.data

            yield TextAnswer(first.content_type, chunks(), int(context.initial.get("x-http-code", "200")))

    async def _handler(self, path: str) -> Any:
        async def registered(details: Any) -> Any:
            return self._handlers[details.method]

        return await self._interceptor.intercept_service(registered, _Details(path))

    async def _unary(self, rpc: str, body: Mapping[str, Any], context: _Context) -> Json:
        method = METHODS[rpc]
        handler = await self._handler(method.path)
        request = handler.request_deserializer(method.request(body).SerializeToString())
        try:
            answer = await handler.unary_unary(request, context)
        except _Aborted:
            assert context.failure is not None
            raise context.failure from None
        return to_json(type(answer).FromString(handler.response_serializer(answer)))

    async def _stream(self, rpc: str, body: Mapping[str, Any], context: _Context) -> AsyncGenerator[Any, None]:
        """Answers of a stream. They come from a task, which is cancelled when the caller goes away, as gRPC does it."""
        method = METHODS[rpc]
        handler = await self._handler(method.path)
        request = handler.request_deserializer(method.request(body).SerializeToString())
        answer_type = GetMessageClass(method.descriptor.output_type)
        task = asyncio.create_task(handler.unary_stream(request, context))
        try:
            while not (task.done() and context.written.empty()):
                news = asyncio.ensure_future(context.written.get())
                await asyncio.wait([news, task], return_when=asyncio.FIRST_COMPLETED)
                if news.done():
                    yield answer_type.FromString(handler.response_serializer(news.result()))
                else:
                    news.cancel()
            try:
                await task
            except _Aborted:
                assert context.failure is not None
                raise context.failure from None
        finally:
            task.cancel()
            await asyncio.wait([task])
