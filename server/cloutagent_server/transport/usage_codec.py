"""Usage reports and receipts as protobuf messages."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cloutagent.v1 import cost_pb2, execution_pb2
from cloutagent_server.domain.ledger import LedgerCall, Settlement
from cloutagent_server.domain.receipt import Receipt, ReceiptPrice
from cloutagent_server.domain.usage import BudgetState, UsageReport, UsageSum
from cloutagent_server.transport.cost_codec import EXCEEDED, SCOPE, model_to_proto, tokens_to_proto, usage_to_proto
from cloutagent_server.transport.execution_codec import STATUS, sdk_cost_to_proto
from cloutagent_server.transport.project_codec import timestamp

RangeRequest = execution_pb2.GetUsageRequest | execution_pb2.WatchUsageRequest | execution_pb2.StreamUsageRequest


def range_from_proto(request: RangeRequest) -> tuple[str | None, str | None]:
    """The first and the last day that a caller gives; None where it gives none."""
    return (
        request.from_day if request.HasField("from_day") else None,
        request.to_day if request.HasField("to_day") else None,
    )


def report_to_proto(report: UsageReport) -> cost_pb2.UsageReport:
    """The protobuf form of a report."""
    return cost_pb2.UsageReport(
        project_id=report.project_id,
        from_day=report.first_day,
        to_day=report.last_day,
        days=(
            cost_pb2.ModelUsage(day=part.day, model=part.model, usage=_sum_to_proto(UsageSum.of([part])))
            for part in report.days
        ),
        sum=_sum_to_proto(report.sum),
        budgets=map(_state_to_proto, report.budgets),
    )


def update_to_proto(report: UsageReport | None, time: datetime) -> execution_pb2.WatchUsageResponse:
    """A message of a watch; without a report it is a heartbeat."""
    return execution_pb2.WatchUsageResponse(
        time=timestamp(time), report=None if report is None else report_to_proto(report)
    )


def receipt_to_proto(receipt: Receipt) -> execution_pb2.Receipt:
    """The protobuf form of a receipt."""
    execution, log = receipt.execution, receipt.log
    return execution_pb2.Receipt(
        execution_id=execution.id,
        project_id=execution.project_id,
        status=STATUS[execution.status],
        created_at=timestamp(execution.created_at),
        started_at=None if execution.started_at is None else timestamp(execution.started_at),
        finished_at=None if execution.finished_at is None else timestamp(execution.finished_at),
        calls=_calls_to_proto(receipt.calls),
        usage=usage_to_proto(receipt.usage),
        prices=map(_price_to_proto, receipt.prices),
        sdk_cost=sdk_cost_to_proto(receipt.sdk_cost),
        log=execution_pb2.ReceiptLog(
            sha256=log.sha256,
            first_sequence=log.first_sequence,
            last_sequence=log.last_sequence,
            size=log.size,
            first_kept_sequence=receipt.first_kept_sequence,
        ),
    )


def _sum_to_proto(total: UsageSum) -> cost_pb2.UsageSum:
    return cost_pb2.UsageSum(
        model_calls=total.calls,
        prompt_tokens=total.prompt_tokens,
        completion_tokens=total.completion_tokens,
        cache_read_tokens=total.cache_read_tokens,
        cache_write_tokens=total.cache_write_tokens,
        total_cost=float(total.cost),
        estimated_cost=float(total.estimated_cost),
    )


def _state_to_proto(state: BudgetState) -> cost_pb2.BudgetState:
    return cost_pb2.BudgetState(
        scope=SCOPE[state.scope],
        limits=EXCEEDED[state.limits],
        limit=float(state.limit),
        used=float(state.used),
        reserved=float(state.reserved),
        left=float(state.left),
    )


def _calls_to_proto(calls: Iterable[LedgerCall]) -> Iterable[execution_pb2.ReceiptCall]:
    for call in calls:
        end = call.settlement or Settlement.in_full(call.reservation, "")
        yield execution_pb2.ReceiptCall(
            call_id=end.call_id,
            time=timestamp(call.reservation.time),
            model=end.usage.model or "",
            prompt_tokens=tokens_to_proto(end.usage.prompt_tokens),
            completion_tokens=tokens_to_proto(end.usage.completion_tokens),
            cache_read_tokens=tokens_to_proto(end.usage.cache_read_tokens),
            cache_write_tokens=tokens_to_proto(end.usage.cache_write_tokens),
            cost=float(end.cost),
            estimated=end.estimated,
            price_version=end.price_version or None,
        )


def _price_to_proto(price: ReceiptPrice) -> execution_pb2.ReceiptPrice:
    return execution_pb2.ReceiptPrice(
        version=price.version,
        model=price.model,
        prices=None if price.prices is None else model_to_proto(price.prices),
    )
