"""How the messages of streams are sent: encoded ones as they are, and to no watcher for ever.

A watcher that does not read costs at most two batches and a cursor, until it is dropped. What it got is whole, and the
error tells after which event to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from cloutagent_server.domain.errors import WatcherTooSlow
from cloutagent_server.transport import context as call
from cloutagent_server.transport.access import FOREIGN_RULES
from cloutagent_server.transport.context import Context
from cloutagent_server.transport.errors import entry_for, retry_seconds, to_status

STALL_SECONDS: Final = 20.0
# A status waits behind the messages that the caller does not read.
_STATUS_SECONDS: Final = 0.5

Handler = Any  # grpc.RpcMethodHandler, whose type parameters differ between stubs and run time


class StreamSending(grpc.aio.ServerInterceptor):
    """Sends the messages of the API's streams; a caller that takes none for `stall_seconds` is dropped.

    It goes around all other interceptors.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Handler]], handler_call_details: Any
    ) -> Handler:
        """The handler of the method, wrapped once if it answers with a stream."""
        method: str = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method in FOREIGN_RULES or handler.unary_stream is None:
            return handler
        self._wrapped[method] = self._wrap(handler)
        return self._wrapped[method]

    def _wrap(self, handler: Handler) -> Handler:
        async def stream(request: Message, context: Context) -> None:
            guard = _Stall(self._stall_seconds)
            call.watch_pace(lambda: guard.noticed)
            try:
                async with guard, aclosing(handler.unary_stream(request, context)) as answers:
                    async for answer in answers:
                        guard.sending()
                        await context.write(answer)
                        guard.sent()
            except TimeoutError:
                if not guard.noticed:
                    raise
                await _drop(context)

        def serialize(answer: Message | bytes) -> bytes:
            encoded: bytes = answer if isinstance(answer, bytes) else handler.response_serializer(answer)
            return encoded

        return grpc.unary_stream_rpc_method_handler(
            stream, request_deserializer=handler.request_deserializer, response_serializer=serialize
        )


class _Stall:
    """Ends the block with TimeoutError when one message takes too long. One timer a stream, whatever it sends."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._since: float | None = None

    @property
    def noticed(self) -> bool:
        """Whether that is why the block ends, or has ended."""
        return self._limit.expired()

    def sending(self) -> None:
        """A message is handed over."""
        self._since = self._loop.time()

    def sent(self) -> None:
        """It was taken."""
        self._since = None

    async def __aenter__(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._look)
        await self._limit.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*raised)

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._since is None else self._since
        if now - since >= self._seconds:
            self._limit.reschedule(now)
        else:
            self._timer = self._loop.call_later(since + self._seconds - now, self._look)


async def _drop(context: Context) -> None:
    error = WatcherTooSlow(call.cursor())
    status: Any = rpc_status.to_status(to_status(error, call.request_id()))
    retry = call.retry_metadata(context, retry_seconds(error))
    with suppress(TimeoutError):
        async with asyncio.timeout(_STATUS_SECONDS):
            await context.abort(
                entry_for(error).code, str(error), trailing_metadata=(*status.trailing_metadata, *retry)
            )
