"""What every call passes through: errors answered, refusals recorded, key, access and validation, then the audit log.

The order has its reason. Errors come first, so that whatever the rest raises is answered from the catalogue. The key
comes before all else that costs anything. Access comes before validation, so that nobody learns from a violation what
is not theirs; it sees ids that were not validated, and a malformed one names nothing. The audit log comes last, so that
what it records as begun is what would be done, by a caller who may; what access refuses is recorded around that.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import grpc
import structlog
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from opentelemetry.trace import NoOpTracer, Tracer

from cloutagent_server.domain.errors import AccessDenied, InvalidRequest, StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.transport import context as call
from cloutagent_server.transport import validation
from cloutagent_server.transport.access import FOREIGN_RULES, AccessControl, Rules
from cloutagent_server.transport.call_span import call_span, describe_end
from cloutagent_server.transport.context import Context
from cloutagent_server.transport.errors import entry_for, retry_seconds, to_status
from cloutagent_server.transport.sending import STALL_SECONDS, sending

_STATUS_SECONDS: Final = 0.5

log: Final = structlog.get_logger("cloutagent.rpc")

Handler = Any  # grpc.RpcMethodHandler, whose type parameters differ between stubs and run time


class Around(ABC):
    """Something that goes around each call of the API, streams included to their end."""

    @abstractmethod
    def around(self, method: str, request: Message, context: Context) -> AbstractAsyncContextManager[None]:
        """What goes around a call of `method` (`/package.Service/Method`)."""


class Nested(grpc.aio.ServerInterceptor):
    """Puts several around each call, the first outermost, and sends the messages of streams."""

    def __init__(self, *arounds: Around, stall_seconds: float = STALL_SECONDS) -> None:
        """A caller that takes no message of a stream for `stall_seconds` is dropped."""
        self._arounds = arounds
        self._stall_seconds = stall_seconds
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        """The handler of the method, wrapped once; as it is for foreign services and for what does not exist."""
        method: str = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method in FOREIGN_RULES:
            return handler
        self._wrapped[method] = self._wrap(method, _reading(handler))
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        async def unary(request: Message, context: Context) -> Message:
            async with self._entered(method, request, context):
                answer: Message = await handler.unary_unary(request, context)
                return answer

        if handler.unary_stream is not None:
            return sending(handler, partial(self._entered, method), self._stall_seconds)
        return grpc.unary_unary_rpc_method_handler(
            unary, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    @asynccontextmanager
    async def _entered(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        async with AsyncExitStack() as entered:
            for each in self._arounds:
                await entered.enter_async_context(each.around(method, request, context))
            yield


class ErrorAnswering(Around):
    """Gives each call its id and its span, answers errors from the catalogue, counts it, and logs one line for it."""

    def __init__(
        self, metrics: Metrics = NO_METRICS, streams: Collection[str] = (), tracer: Tracer | None = None
    ) -> None:
        """`streams` are the methods that answer with a stream."""
        self._metrics = metrics
        self._streams = frozenset(streams)
        self._tracer = NoOpTracer() if tracer is None else tracer

    @asynccontextmanager
    async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        """Turn what the call raises into a status."""
        with call_span(self._tracer, method, context) as span:
            request_id = call.begin(context)
            stream = method in self._streams
            self._metrics.call_started(method, stream=stream)
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                if isinstance(request, _Unreadable):
                    raise InvalidRequest.of("", "the request cannot be read: perhaps some text in it is not UTF-8")
                yield
            except Exception as error:
                code = entry_for(error).code
                _explain(error, method, request_id, code)
                status: Any = rpc_status.to_status(to_status(error, request_id))
                retry = call.retry_metadata(context, retry_seconds(error))
                try:
                    async with asyncio.timeout(_STATUS_SECONDS):
                        await context.abort_with_status(
                            status._replace(trailing_metadata=(*status.trailing_metadata, *retry))
                        )
                except TimeoutError:
                    # It is handed over, and waits behind messages that the caller does not read.
                    raise asyncio.CancelledError from None
            except BaseException:
                code = grpc.StatusCode.CANCELLED
                raise
            finally:
                seconds = time.perf_counter() - started
                self._metrics.call_ended(method, code.name, seconds, stream=stream)
                describe_end(span, code, request_id)
                log.info(
                    "call",
                    method=method,
                    code=code.name,
                    milliseconds=round(seconds * 1000, 1),
                    request_id=request_id,
                    project_id=call.project_id(),
                    key_id=call.caller_id(),
                )


def streams_of(files: Iterable[FileDescriptor]) -> Collection[str]:
    """The methods in these files that answer with a stream, by path."""
    return frozenset(
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if method.server_streaming
    )


class Guard(Around):
    """Lets a call pass that its access rule allows and whose request is valid. What no rule names is refused."""

    def __init__(self, rules: Rules, access: AccessControl) -> None:
        self._rules = rules
        self._access = access

    @asynccontextmanager
    async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        """Key, access, validation."""
        rule = self._rules.get(method)
        if rule is None:
            raise AccessDenied("no access rule names this method")
        if self._access.needs_key(rule):
            api_key = call.metadata_of(context, call.API_KEY_METADATA)
            principal = await self._access.identify(api_key, call.source_of(context))
            call.identify(principal)
            call.concerns(await self._access.check(rule, principal, request))
        validation.check(request)
        yield


class _Unreadable:
    """Stands for a request whose bytes are not the method's message."""


def _reading(handler: Handler) -> Handler:
    """The handler with a deserializer that does not raise: what gRPC answers then tells Python's error."""

    def deserialize(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return _Unreadable()

    return handler._replace(request_deserializer=deserialize)


def _explain(error: Exception, method: str, request_id: str, code: grpc.StatusCode) -> None:
    """Tell the operator what the caller is not told."""
    if isinstance(error, StoredDataDamaged):
        log.error("stored data damaged", request_id=request_id, location=error.location, fault=error.fault)
    elif isinstance(error, StorageUnavailable):
        log.error("storage unavailable", request_id=request_id, cause=error.cause)
    elif code is grpc.StatusCode.INTERNAL:
        log.error("call failed", method=method, request_id=request_id, exc_info=error)
