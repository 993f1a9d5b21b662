"""A tracer whose spans stay in memory."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer


class Spans:
    """The spans that ended, in the order of their ends."""

    def __init__(self) -> None:
        self._ended = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._ended))
        self.tracer: Tracer = provider.get_tracer("tests")

    @property
    def ended(self) -> Sequence[ReadableSpan]:
        """All of them."""
        return self._ended.get_finished_spans()


def failed(span: ReadableSpan) -> bool:
    """Whether the span is marked as an error."""
    return span.status.status_code is StatusCode.ERROR


def parent_of(span: ReadableSpan) -> int | None:
    """The id of the span around it."""
    return None if span.parent is None else span.parent.span_id
