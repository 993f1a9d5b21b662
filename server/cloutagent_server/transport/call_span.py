"""The span of a call, in the terms of OpenTelemetry's conventions for RPC. It has ids, and nothing of what was said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

import grpc
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import INVALID_SPAN, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cloutagent_server.transport import context as call
from cloutagent_server.transport.context import Context

_TRACE_METADATA: Final = "traceparent"
_TRACE_CHARACTERS: Final = 55
_PROPAGATOR: Final = TraceContextTextMapPropagator()
# Of a server's spans only what is its own fault is an error; so say the conventions.
_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_UNTRACED: Final = nullcontext(INVALID_SPAN)


def call_span(tracer: Tracer, method: str, context: Context) -> AbstractContextManager[Span]:
    """The block is a call of `method` (`/package.Service/Method`), in the trace that its caller names, if any."""
    return _UNTRACED if isinstance(tracer, NoOpTracer) else _traced(tracer, method, context)


@contextmanager
def _traced(tracer: Tracer, method: str, context: Context) -> Iterator[Span]:
    name = method.removeprefix("/")
    with tracer.start_as_current_span(
        name,
        _caller_of(context),
        SpanKind.SERVER,
        {"rpc.system.name": "grpc", "rpc.method": name},
        # What ends the call is told by `describe_end`: an exception's text may hold what the caller sent.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def describe_end(span: Span, code: grpc.StatusCode, request_id: str) -> None:
    """Tell how the call ends and what it was about."""
    if not span.is_recording():
        return
    span.set_attributes(
        {
            "rpc.response.status_code": code.name,
            "cloutagent.request.id": request_id,
            "cloutagent.project.id": call.project_id(),
            "cloutagent.key.id": call.caller_id(),
        }
    )
    if code in _FAULTS:
        span.set_attribute("error.type", code.name)
        span.set_status(Status(StatusCode.ERROR))


def _caller_of(context: Context) -> TraceContext:
    """The caller's span; nobody's if it names none, whatever this task was started in."""
    named = call.metadata_of(context, _TRACE_METADATA)
    # What is no such name the propagator would write into the log, and `tracestate`, which is the caller's text, too.
    carrier = {_TRACE_METADATA: named} if named is not None and len(named) == _TRACE_CHARACTERS else {}
    return _PROPAGATOR.extract(carrier, TraceContext())
