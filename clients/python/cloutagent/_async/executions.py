"""Executions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Final, Unpack

from cloutagent._outcome import completed, has_ended
from cloutagent._requests import StartOptions, message, start_request, timestamp
from cloutagent.errors import ApiError, CloutAgentError
from cloutagent.types import CostLimits, Execution, ExecutionEstimate, GetExecutionCostResponse, Receipt
from cloutagent.v1 import execution_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport
    from cloutagent._async.watch import AsyncEventWatch

# Cancelling answers within 30 seconds however long the end takes.
_CANCEL_TIMEOUT: Final = 45.0


class AsyncExecutions:
    """Executions: runs of a project's agent. `timeout` is in seconds."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def run(self, prompt: str, *, timeout: float | None = None, **options: Unpack[StartOptions]) -> Execution:
        """Run the agent and return the completed execution, whose `result` is the agent's final text.

        However often the connection breaks, the prompt is run once. Whoever stops waiting (`timeout`, Ctrl-C, a task
        that is cancelled) ends nothing: the execution goes on until it is cancelled.

        Args:
            prompt: The prompt, a template.
            timeout: How many seconds all of it may take. Default: the start as long as any call, the wait for the end
                as long as it takes. The limit of the run itself is `max_duration`.
            options: See StartOptions.

        Raises:
            LimitExceededError, ExecutionTimedOutError, ExecutionFailedError: It failed.
            ExecutionCancelledError: It was cancelled.
            ApiError: A call failed. If the execution was started, `execution_id` says which it is; if the start failed,
                it may have been all the same, and only a start with the error's `idempotency_key` is no second run.
        """
        end = None if timeout is None else monotonic() + timeout
        at_once = self._transport.configuration.timeout
        within = at_once if timeout is None else min(timeout, at_once)
        execution = await self.start(prompt, timeout=within, **options)
        try:
            if not has_ended(execution):
                execution = await self._ended(execution, end)
        except CloutAgentError as error:
            error.execution_id = execution.id
            raise
        return completed(execution)

    async def _ended(self, execution: Execution, end: float | None) -> Execution:
        """An execution after its end, for which it waits until the monotonic clock shows `end`.

        The server has just answered: whatever becomes of it now, the execution is worth the patience of a watch.
        """
        from cloutagent._async.watch import AsyncEventWatch

        left = None if end is None else end - monotonic()
        async with AsyncEventWatch(self._transport, execution.id, execution.last_sequence, left, True) as events:
            async for _ in events:
                pass
        left = self._transport.configuration.retry.outage if end is None else end - monotonic()
        request = execution_pb2.GetExecutionRequest(execution_id=execution.id)
        method = self._transport.connection.executions.GetExecution
        return (await self._transport.call(method, request, left, repeatable=True, patient=True)).execution

    async def start(self, prompt: str, *, timeout: float | None = None, **options: Unpack[StartOptions]) -> Execution:
        """Queue a run and return at once. See `run` for the arguments."""
        end = self._end(timeout)
        project_id = await self._transport.project(options.get("project_id"), timeout)
        request = start_request(project_id, prompt, options)
        method = self._transport.connection.executions.StartExecution
        # The request has an idempotency key.
        try:
            return (await self._transport.call(method, request, end - monotonic(), repeatable=True)).execution
        except ApiError as error:
            error.idempotency_key = request.idempotency_key
            raise

    async def estimate(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[StartOptions]
    ) -> ExecutionEstimate:
        """Check all that `start` checks but the queue, and estimate the cost. Nothing is created or called."""
        end = self._end(timeout)
        project_id = await self._transport.project(options.get("project_id"), timeout)
        request = start_request(project_id, prompt, options, dry=True)
        method = self._transport.connection.executions.StartExecution
        return (await self._transport.call(method, request, end - monotonic(), repeatable=True)).estimate

    def _end(self, timeout: float | None) -> float:
        """What the monotonic clock shows when the time of a call is up that may ask for the project first."""
        return monotonic() + (self._transport.configuration.timeout if timeout is None else timeout)

    def watch(self, execution_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> AsyncEventWatch:
        """The events of an execution from the first to the last, those that were and then those that happen.

        Each event comes once and in order: after a lost connection the watch goes on by itself where it was. Heartbeats
        and kinds of events that this version of the package does not know are passed over.

        Args:
            execution_id: The execution.
            after_sequence: Number of the last event that is known already.
            timeout: How many seconds the watch may take. Default: as long as the execution takes.

        Raises:
            OutOfRangeError: The next event was trimmed, or `after_sequence` is behind the last one.
            DeadlineExceededError: The execution did not end in time.
            UnavailableError: The server could not be reached for too long; see RetryPolicy.
        """
        from cloutagent._async.watch import AsyncEventWatch

        return AsyncEventWatch(self._transport, execution_id, after_sequence, timeout)

    async def get(self, execution_id: str, *, timeout: float | None = None) -> Execution:
        """One execution as it stands."""
        request = execution_pb2.GetExecutionRequest(execution_id=execution_id)
        method = self._transport.connection.executions.GetExecution
        return (await self._transport.call(method, request, timeout, repeatable=True)).execution

    async def list(
        self,
        *,
        statuses: Collection[Execution.Status.ValueType] = (),
        labels: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Execution]:
        """The project's executions that pass all filters, newest first.

        Args:
            statuses: In one of these states.
            labels: With all of these labels.
            created_after: Created then or later; has a time zone.
            created_before: Created before that; has a time zone.
            page_size: How many each call returns at most.
            project_id: The project; see `Client`.
            timeout: How many seconds each call may take.
        """
        request = message(
            execution_pb2.ListExecutionsRequest,
            project_id=await self._transport.project(project_id, timeout),
            statuses=statuses,
            labels=[f"{name}={value}" for name, value in (labels or {}).items()],
            created_after=timestamp(created_after),
            created_before=timestamp(created_before),
            page_size=page_size,
        )
        while True:
            method = self._transport.connection.executions.ListExecutions
            page = await self._transport.call(method, request, timeout, repeatable=True)
            for execution in page.executions:
                yield execution
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, execution_id: str, *, timeout: float | None = None) -> Execution:
        """End an execution, and return it with its final usage. One that has ended stays as it is."""
        request = execution_pb2.CancelExecutionRequest(execution_id=execution_id)
        method = self._transport.connection.executions.CancelExecution
        within = max(self._transport.configuration.timeout, _CANCEL_TIMEOUT) if timeout is None else timeout
        return (await self._transport.call(method, request, within, repeatable=True)).execution

    async def delete(self, execution_id: str, *, timeout: float | None = None) -> None:
        """Delete an execution that has ended, and its events."""
        request = execution_pb2.DeleteExecutionRequest(execution_id=execution_id)
        await self._transport.call(self._transport.connection.executions.DeleteExecution, request, timeout)

    async def cost(
        self, execution_id: str, *, limits: CostLimits | None = None, timeout: float | None = None
    ) -> GetExecutionCostResponse:
        """What an execution has used, and how that stands against `limits`, by default its own."""
        request = execution_pb2.GetExecutionCostRequest(execution_id=execution_id, limits=limits)
        method = self._transport.connection.executions.GetExecutionCost
        return await self._transport.call(method, request, timeout, repeatable=True)

    async def receipt(self, execution_id: str, *, timeout: float | None = None) -> Receipt:
        """The receipt of an execution that has ended: its model calls, their prices, a digest of its events."""
        request = execution_pb2.GetReceiptRequest(execution_id=execution_id)
        method = self._transport.connection.executions.GetReceipt
        return (await self._transport.call(method, request, timeout, repeatable=True)).receipt
