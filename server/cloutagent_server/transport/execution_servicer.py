"""ExecutionService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from cloutagent.v1 import execution_pb2, execution_pb2_grpc
from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import CursorOutOfRange, InvalidRequest
from cloutagent_server.domain.execution import Execution
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import WatchService
from cloutagent_server.transport import event_codec
from cloutagent_server.transport.context import Context, answer_with, learn, progress
from cloutagent_server.transport.cost_codec import check_to_proto, limits_from_proto, model_to_proto, usage_to_proto
from cloutagent_server.transport.event_frames import ANSWER_EVENTS, EventFrames, framed
from cloutagent_server.transport.execution_codec import (
    AttachedRequest,
    cancels_when_gone,
    estimate_to_proto,
    filter_from_proto,
    request_from_proto,
    to_proto,
    to_result,
)
from cloutagent_server.transport.idempotency import idempotency_key
from cloutagent_server.transport.shared_answers import SharedAnswers
from cloutagent_server.transport.text_stream import TextEvents, last_event_id, text_usage
from cloutagent_server.transport.usage_codec import range_from_proto, receipt_to_proto, report_to_proto, update_to_proto

DEFAULT_PAGE_SIZE: Final = 100


class ExecutionServicer(execution_pb2_grpc.ExecutionServiceServicer):
    """Decodes, calls, encodes."""

    def __init__(
        self, executions: ExecutionService, watches: WatchService, usage: UsageService, receipts: ReceiptService
    ) -> None:
        self._executions = executions
        self._watches = watches
        self._usage = usage
        self._receipts = receipts
        self._answers = SharedAnswers(EventFrames().answer, ANSWER_EVENTS)
        self._text = TextEvents(watches)

    async def Execute(self, request: execution_pb2.ExecuteRequest, context: Context) -> execution_pb2.ExecutionResult:
        """Run the agent and wait for the end."""
        async with self._attached(request, context) as execution:
            return to_result(await self._executions.finished(execution.id))

    async def StartExecution(
        self, request: execution_pb2.StartExecutionRequest, context: Context
    ) -> execution_pb2.StartExecutionResponse:
        """Queue a run; a REST caller gets 201 if this call created it. Or only look at what it would be."""
        asked = request_from_proto(request, idempotency_key(request, context))
        if request.validate_only:
            estimate = await self._executions.dry_run(asked)
            return execution_pb2.StartExecutionResponse(estimate=estimate_to_proto(estimate))
        execution, created = await self._executions.start(asked)
        learn(execution_id=execution.id)
        if created:
            await answer_with(context, 201)
        return execution_pb2.StartExecutionResponse(execution=to_proto(execution))

    async def ExecuteStream(  # type: ignore[override]  # `sending` sends encoded answers
        self, request: execution_pb2.ExecuteStreamRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Queue a run and stream its events, encoded."""
        async with self._attached(request, context) as execution, aclosing(self._watched(execution.id, 0)) as answers:
            async for answer in answers:
                yield answer

    def WatchExecution(  # type: ignore[override]  # `sending` sends encoded answers
        self, request: execution_pb2.WatchExecutionRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """Stream the events after a sequence number, encoded."""
        return self._watched(request.execution_id, request.after_sequence)

    async def StreamExecutionEvents(
        self, request: execution_pb2.StreamExecutionEventsRequest, context: Context
    ) -> AsyncIterator[HttpBody | bytes]:
        """Stream events as text, encoded."""
        seen = last_event_id(context)
        after = seen
        if after is None:
            after = request.from_event - 1 if request.HasField("from_event") else 0
        bodies = self._text.after(context, request.execution_id, after, reconnects=seen is not None)
        async with aclosing(bodies):
            async for body in bodies:
                yield body

    async def ExecuteEventStream(
        self, request: execution_pb2.ExecuteEventStreamRequest, context: Context
    ) -> AsyncIterator[HttpBody | bytes]:
        """Queue a run and stream its events as text, encoded."""
        seen = last_event_id(context)
        if seen is not None:
            asked = request_from_proto(request, idempotency_key(request, context))
            if asked.idempotency_key is None:
                raise InvalidRequest.of("Last-Event-ID", "needs an idempotencyKey: without one this is a new execution")
            if seen and await self._executions.find_earlier(asked) is None:
                # Whoever has seen events has had a run. A second one is not what resuming asks for.
                raise CursorOutOfRange(1, 0)
        async with (
            self._attached(request, context) as execution,
            aclosing(self._text.after(context, execution.id, seen or 0)) as bodies,
        ):
            async for body in bodies:
                yield body

    async def GetExecution(
        self, request: execution_pb2.GetExecutionRequest, context: Context
    ) -> execution_pb2.GetExecutionResponse:
        """Read an execution."""
        return execution_pb2.GetExecutionResponse(execution=to_proto(await self._executions.get(request.execution_id)))

    async def ListExecutions(
        self, request: execution_pb2.ListExecutionsRequest, context: Context
    ) -> execution_pb2.ListExecutionsResponse:
        """List a project's executions."""
        page_size = request.page_size if request.HasField("page_size") else DEFAULT_PAGE_SIZE
        wanted = filter_from_proto(request)
        page = await self._executions.list(request.project_id, page_size, request.page_token or None, wanted)
        return execution_pb2.ListExecutionsResponse(
            executions=map(to_proto, page.items), next_page_token=page.next_page_token
        )

    async def CancelExecution(
        self, request: execution_pb2.CancelExecutionRequest, context: Context
    ) -> execution_pb2.CancelExecutionResponse:
        """End an execution."""
        return execution_pb2.CancelExecutionResponse(
            execution=to_proto(await self._executions.cancel(request.execution_id))
        )

    async def DeleteExecution(
        self, request: execution_pb2.DeleteExecutionRequest, context: Context
    ) -> execution_pb2.DeleteExecutionResponse:
        """Delete an execution; a REST caller gets 204."""
        await self._executions.delete(request.execution_id)
        await answer_with(context, 204)
        return execution_pb2.DeleteExecutionResponse()

    async def GetExecutionCost(
        self, request: execution_pb2.GetExecutionCostRequest, context: Context
    ) -> execution_pb2.GetExecutionCostResponse:
        """Tell what an execution has used."""
        limits = limits_from_proto(request.limits) if request.HasField("limits") else None
        usage, check = await self._executions.cost(request.execution_id, limits)
        return execution_pb2.GetExecutionCostResponse(
            usage=usage_to_proto(usage), current_cost=float(usage.total_cost), limit_check=check_to_proto(check)
        )

    async def EstimateCost(
        self, request: execution_pb2.EstimateCostRequest, context: Context
    ) -> execution_pb2.EstimateCostResponse:
        """Estimate what tokens cost."""
        cost = await self._executions.estimate(request.project_id, request.prompt_tokens, request.completion_tokens)
        return execution_pb2.EstimateCostResponse(estimated_cost=float(cost))

    async def GetReceipt(
        self, request: execution_pb2.GetReceiptRequest, context: Context
    ) -> execution_pb2.GetReceiptResponse:
        """Give the receipt of an execution that has ended."""
        receipt = await self._receipts.receipt(request.execution_id)
        return execution_pb2.GetReceiptResponse(receipt=receipt_to_proto(receipt))

    async def GetUsage(
        self, request: execution_pb2.GetUsageRequest, context: Context
    ) -> execution_pb2.GetUsageResponse:
        """Tell what a project used."""
        report = await self._usage.report(request.project_id, *range_from_proto(request))
        return execution_pb2.GetUsageResponse(report=report_to_proto(report))

    async def WatchUsage(
        self, request: execution_pb2.WatchUsageRequest, context: Context
    ) -> AsyncIterator[execution_pb2.WatchUsageResponse]:
        """Stream what a project used."""
        async with aclosing(self._usage.watch(request.project_id, *range_from_proto(request))) as reports:
            async for report in reports:
                yield update_to_proto(report, timestamps.now())

    async def StreamUsage(self, request: execution_pb2.StreamUsageRequest, context: Context) -> AsyncIterator[HttpBody]:
        """Stream what a project used as text."""
        bodies = text_usage(self._usage, context, request.project_id, *range_from_proto(request))
        async with aclosing(bodies):
            async for body in bodies:
                yield body

    async def ListModels(
        self, request: execution_pb2.ListModelsRequest, context: Context
    ) -> execution_pb2.ListModelsResponse:
        """List the models."""
        return execution_pb2.ListModelsResponse(models=map(model_to_proto, self._executions.models()))

    @asynccontextmanager
    async def _attached(self, request: AttachedRequest, context: Context) -> AsyncIterator[Execution]:
        asked = request_from_proto(request, idempotency_key(request, context))

        def cancels() -> bool:
            # Whoever reads too slowly was sent away, and has not gone: it resumes.
            return cancels_when_gone(request) and not progress().stalled

        async with self._executions.attached(asked, cancel_when_gone=cancels) as (execution, _):
            learn(execution_id=execution.id)
            yield execution

    async def _watched(self, execution_id: str, after_sequence: int) -> AsyncGenerator[bytes, None]:
        sent = progress()
        sent.cursor = after_sequence
        async with aclosing(self._watches.watch(execution_id, after_sequence)) as batches:
            async for batch in batches:
                if batch:
                    for answer, cursor in self._answers.of(batch):
                        yield answer
                        sent.cursor = cursor
                else:
                    beat = event_codec.heartbeat(execution_id, sent.cursor, timestamps.now())
                    yield framed(beat.SerializeToString())
