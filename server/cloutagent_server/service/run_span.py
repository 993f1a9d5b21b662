"""The span of a run, in the terms of OpenTelemetry's conventions for agents.

It has ids and numbers, and nothing of what was said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace import Status as SpanStatus

from cloutagent_server.domain.execution import Execution


@contextmanager
def run_span(tracer: Tracer, execution: Execution) -> Iterator[Span]:
    """The block is the run. It belongs to the call that started it, though it may go on for long after that."""
    with tracer.start_as_current_span(
        "invoke_agent",
        kind=SpanKind.INTERNAL,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": execution.agent.model,
            "cloutagent.execution.id": execution.id,
            "cloutagent.project.id": execution.project_id,
        },
        # An exception's text may hold what the caller sent.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def describe_end(span: Span, execution: Execution, *, stored: bool) -> None:
    """Tell how the run has ended and what it used; or that the storage has not taken its end yet."""
    if not span.is_recording():
        return
    if not stored:
        span.set_attribute("error.type", "storage")
        span.set_status(SpanStatus(StatusCode.ERROR))
        return
    usage = execution.usage
    span.set_attributes(
        {
            "cloutagent.execution.status": execution.status.value,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "cloutagent.execution.cost_usd": float(usage.total_cost),
        }
    )
    if execution.failure is not None:
        span.set_attribute("error.type", execution.failure.reason.value)
        span.set_status(SpanStatus(StatusCode.ERROR))
