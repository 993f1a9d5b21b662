"""The span of a model call, in the terms of OpenTelemetry's conventions for generative AI.

It has numbers and names alone: nothing of what was said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from cloutagent_server.domain.metrics import CallOutcome
from cloutagent_server.engine.model_call import ModelCall

_FINE: Final = frozenset({CallOutcome.OK, CallOutcome.REFUSED, CallOutcome.CUT})


@contextmanager
def call_span(tracer: Tracer, run: Context, model: str, call: ModelCall) -> Iterator[None]:
    """The block is a call of `model`, in the trace of its run. What it has come to is told at its end."""
    with tracer.start_as_current_span(
        f"chat {model}",
        run,
        SpanKind.CLIENT,
        # An exception's text may hold what was said.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        finally:
            if span.is_recording():
                span.set_attributes(_facts(call, model))
                if call.outcome not in _FINE:
                    span.set_attribute("error.type", call.outcome.value)
                    span.set_status(Status(StatusCode.ERROR))


def _facts(call: ModelCall, model: str) -> dict[str, AttributeValue]:
    facts: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": model,
        "cloutagent.model_call.id": call.id,
        "cloutagent.model_call.outcome": call.outcome.value,
    }
    if call.first_byte is not None:
        facts["gen_ai.response.time_to_first_chunk"] = call.first_byte
    usage = call.usage
    if usage is not None:
        facts |= {
            "gen_ai.response.model": usage.model or model,
            "gen_ai.usage.input_tokens": usage.prompt_tokens,
            "gen_ai.usage.output_tokens": usage.completion_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "cloutagent.model_call.cost_usd": float(call.prices.cost(usage)),
        }
    return facts
