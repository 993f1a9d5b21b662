"""Traces: how long calls, runs and model calls take, sent to an OTLP receiver."""

from __future__ import annotations

import asyncio
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracer, Tracer, format_trace_id, get_current_span
from structlog.typing import EventDict

from cloutagent_server.certificate import authorities

SERVICE_NAME: Final = "cloutagent-server"

_REQUEST_SECONDS: Final = 3.0
_BATCH_MILLISECONDS: Final = 1000
# Spans that wait for the receiver; beyond, the oldest are dropped.
_MOST_WAITING: Final = 8192
_STOP_SECONDS: Final = 3.0


class Tracing:
    """Where spans go. A thread of its own sends them, and whatever the receiver does, no call waits for it.

    Attributes:
        tracer: Makes the spans; without a receiver, ones that are nothing.
    """

    def __init__(self, url: str | None, version: str) -> None:
        """`url` is where a receiver takes traces by OTLP over HTTP; None: there are no traces.

        `version` is the server's. Each trace is recorded whose caller did not decide otherwise (`traceparent`).

        Raises:
            OSError: Nothing is known by which to check the receiver's certificate.
        """
        self.tracer: Tracer = NoOpTracer()
        self._exporter: OTLPSpanExporter | None = None
        if url is None:
            return
        self._exporter = OTLPSpanExporter(
            url, timeout=_REQUEST_SECONDS, certificate_file=authorities() if url.startswith("https:") else None
        )
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE_NAME, "service.version": version}),
            # The server stops it, in its order.
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, _MOST_WAITING, schedule_delay_millis=_BATCH_MILLISECONDS)
        )
        self.tracer = self._provider.get_tracer(SERVICE_NAME, version)

    async def stop(self) -> None:
        """Send what waits, for a few seconds at most."""
        if self._exporter is None:
            return
        stopped = asyncio.create_task(asyncio.to_thread(self._provider.shutdown))
        await asyncio.wait({stopped}, timeout=_STOP_SECONDS)
        if not stopped.done():
            # It gives up what is left, so that the thread comes to its end.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]
        await stopped


def name_trace(_: object, __: str, line: EventDict) -> EventDict:
    """Have a line of the log name the trace that it belongs to."""
    traced = get_current_span().get_span_context()
    if traced.trace_flags.sampled:
        line["trace_id"] = format_trace_id(traced.trace_id)
    return line
