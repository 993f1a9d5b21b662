"""Streams that outlast their connections."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import grpc

from cloutagent._async.transport import AsyncTransport
from cloutagent._failures import failure_of, unreadable
from cloutagent._following import EventFollowing, Following, UsageFollowing
from cloutagent._identity import new_request_id
from cloutagent._owner import async_interrupted
from cloutagent._retry import Reconnects
from cloutagent.errors import UnavailableError
from cloutagent.v1.cost_pb2 import UsageReport
from cloutagent.v1.execution_pb2 import ExecutionEvent

Item = TypeVar("Item")

_END: Final = object()


class AsyncWatch(AsyncIterator[Item], Generic[Item]):
    """An iterator over a stream of the server, which comes back by itself when the connection is lost.

    Leaving it early ends nothing but the watch. One watch is for one task or thread.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        method: Callable[[], grpc.aio.UnaryStreamMultiCallable[Any, Any]],
        following: Following[Any, Any, Item],
        timeout: float | None,
        patient: bool = False,
    ) -> None:
        """`method` is looked up for each connection; `timeout` is how many seconds the whole watch may take.

        With `patient` the first connection is tried for as long as the later ones.
        """
        self._transport = transport
        self._method = method
        self._following = following
        self._reconnects = Reconnects(transport.configuration.retry, timeout, patient=patient)
        self._ready: deque[Item] = deque()
        self._call: Any = None
        self._answers: AsyncIterator[Any] | None = None
        self._request_id = ""
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._ready:
            if self._following.over or self._closed:
                await self.close()
                raise StopAsyncIteration
            await self._read()
        return self._ready.popleft()

    async def close(self) -> None:
        """End the watch, also for who is waiting for its next item. The execution goes on."""
        self._closed = True
        self._ready.clear()
        self._hang_up()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # A loop that was left early gives its stream back once nobody has it any more.
        with suppress(Exception):
            self._hang_up()

    async def _read(self) -> None:
        """Take one answer, or wait until there may be a connection again."""
        # Elsewhere the stream would bring nothing, ever; nor may it be ended from there.
        self._transport.check_owner()
        try:
            answer = await anext(await self._connected(), _END)
        except grpc.RpcError as error:
            failure = failure_of(error, self._request_id)
        except BaseException:
            self._hang_up()
            if not async_interrupted():
                if self._closed:
                    return
                self._transport.check_open()
            raise
        else:
            if answer is _END:
                self._following.closed()
                if self._following.over:
                    return
                failure = UnavailableError("the stream ended early", code="UNAVAILABLE", request_id=self._request_id)
            elif answer is None:
                failure = unreadable(self._request_id)
            else:
                items = self._following.take(answer)
                self._reconnects.answered(new=bool(items))
                self._ready.extend(items)
                return
        self._hang_up()
        if self._closed:
            return
        await self._transport.wait(self._reconnects.pause(failure), failure)

    async def _connected(self) -> AsyncIterator[Any]:
        answers = self._answers
        if answers is None:
            await self._prepare()
            self._request_id = new_request_id()
            call = self._method()(
                self._following.request(),
                timeout=self._reconnects.timeout(),
                metadata=self._transport.metadata(self._request_id),
            )
            answers = aiter(call)
            self._call, self._answers = call, answers
            # Who closed the watch meanwhile had no call yet to end.
            if self._closed:
                call.cancel()
        return answers

    async def _prepare(self) -> None:
        """Find out what the request needs."""

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = self._answers = None


class AsyncEventWatch(AsyncWatch[ExecutionEvent]):
    """The events of an execution.

    Attributes:
        last_sequence: Number of the last event that was handed out: the `after_sequence` of a watch that goes on.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        execution_id: str,
        after_sequence: int,
        timeout: float | None,
        patient: bool = False,
    ) -> None:
        following = EventFollowing(execution_id, after_sequence)
        super().__init__(transport, lambda: transport.connection.executions.WatchExecution, following, timeout, patient)
        self.last_sequence = after_sequence

    async def __anext__(self) -> ExecutionEvent:
        event = await super().__anext__()
        self.last_sequence = event.sequence
        return event


class AsyncUsageWatch(AsyncWatch[UsageReport]):
    """What a project uses, whenever it has changed."""

    def __init__(
        self,
        transport: AsyncTransport,
        project_id: str | None,
        from_day: str | None,
        to_day: str | None,
        timeout: float | None,
    ) -> None:
        self._usage = UsageFollowing(project_id, from_day, to_day)
        super().__init__(transport, lambda: transport.connection.executions.WatchUsage, self._usage, timeout)

    async def _prepare(self) -> None:
        self._usage.project_id = await self._transport.project(self._usage.project_id, None)
