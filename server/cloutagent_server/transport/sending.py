"""How the messages of streams are sent: encoded ones as they are, and to no watcher for ever.

A watcher that does not read costs at most two batches and a cursor, until it is dropped. What it got is whole, and the
error tells after which event to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from cloutagent_server.domain.errors import WatcherTooSlow
from cloutagent_server.transport import context as call
from cloutagent_server.transport.context import Context

STALL_SECONDS: Final = 20.0

Handler = Any  # grpc.RpcMethodHandler, whose type parameters differ between stubs and run time


def sending(
    handler: Handler, around: Callable[[Message, Context], AbstractAsyncContextManager[None]], stall_seconds: float
) -> Handler:
    """Sends what the handler of a stream yields, with `around` around it.

    What runs inside `around` raises WatcherTooSlow when the caller takes no message for `stall_seconds`.
    """

    async def stream(request: Message, context: Context) -> None:
        async with around(request, context):
            guard = _Stall(stall_seconds, call.begin_stream())
            try:
                async with guard, aclosing(handler.unary_stream(request, context)) as answers:
                    async for answer in answers:
                        guard.sending()
                        try:
                            await context.write(answer)
                        except grpc.aio.BaseError as gone:
                            # The caller is gone, or the server has stopped: what grpc tells by cancelling, too.
                            raise asyncio.CancelledError from gone
                        guard.since = None
            except TimeoutError:
                if not guard.noticed:
                    raise
                raise WatcherTooSlow(call.progress().cursor) from None

    def serialize(answer: Message | bytes) -> bytes:
        encoded: bytes = answer if isinstance(answer, bytes) else handler.response_serializer(answer)
        return encoded

    return grpc.unary_stream_rpc_method_handler(
        stream, request_deserializer=handler.request_deserializer, response_serializer=serialize
    )


class _Stall:
    """Ends the block with TimeoutError when one message takes too long. One timer a stream, whatever it sends.

    Attributes:
        since: When the message that is under way was handed over; None while there is none.
    """

    __slots__ = ("_limit", "_now", "_progress", "_seconds", "_timer", "since")

    def __init__(self, seconds: float, progress: call.Progress) -> None:
        self._seconds = seconds
        self._progress = progress
        self._now = asyncio.get_running_loop().time
        self._limit = asyncio.timeout(None)
        self.since: float | None = None

    @property
    def noticed(self) -> bool:
        """Whether that is why the block ends, or has ended."""
        return self._limit.expired()

    def sending(self) -> None:
        """A message is handed over."""
        self.since = self._now()

    async def __aenter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)
        await self._limit.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*raised)

    def _look(self) -> None:
        now = self._now()
        since = now if self.since is None else self.since
        if now - since >= self._seconds:
            self._progress.stalled = True
            self._limit.reschedule(now)
        else:
            self._timer = asyncio.get_running_loop().call_later(since + self._seconds - now, self._look)
