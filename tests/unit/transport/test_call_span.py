"""Spans of calls: whose trace they belong to, how they end, and what is not in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from cloutagent.v1.system_pb2 import GetHealthResponse as Answer
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.transport.interceptors import ErrorAnswering
from tests.support.spans import Spans, failed
from tests.unit.transport.test_interceptors import Context, answer, call_stream, call_unary, serving

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_a_call_belongs_to_the_trace_that_its_caller_names(caplog: pytest.LogCaptureFixture) -> None:
    spans = Spans()
    async with serving(ErrorAnswering(tracer=spans.tracer), unary=answer) as channel:
        await call_unary(channel, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "mine")))
        await call_unary(channel)
        await call_unary(channel, metadata=(("traceparent", "00-nonsense"),))
        await call_unary(channel, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-00"),))
        for name, value in (("tracestate", "k=what the caller said"), ("traceparent", "0" * 600)):
            await call_unary(channel, metadata=((name, value),))
    assert not any(record.name.startswith("opentelemetry") for record in caplog.records)
    *called, _, _ = spans.ended
    assert not any("caller said" in span.to_json() for span in spans.ended)
    # Who calls decides whether a trace is recorded: the last one is not.
    named, own, other = called
    assert (named.context.trace_id, named.parent and named.parent.span_id) == (int(TRACE, 16), int(CALLER, 16))
    assert own.parent is None and other.parent is None
    assert len({named.context.trace_id, own.context.trace_id, other.context.trace_id}) == 3
    assert (named.name, named.kind.name) == ("test.Service/Unary", "SERVER")
    assert dict(named.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "test.Service/Unary",
        "rpc.response.status_code": "OK",
        "cloutagent.request.id": "mine",
        "cloutagent.project.id": "-",
        "cloutagent.key.id": "-",
    }


@pytest.mark.parametrize(
    ("error", "code", "fault"), [(ProjectNotFound("p"), "NOT_FOUND", False), (RuntimeError("s3cret"), "INTERNAL", True)]
)
async def test_only_the_servers_own_faults_are_errors(error: Exception, code: str, fault: bool) -> None:
    async def fail(request: Message, context: Context) -> Answer:
        raise error

    spans = Spans()
    async with serving(ErrorAnswering(tracer=spans.tracer), unary=fail) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await call_unary(channel)
    [span] = spans.ended
    attributes: dict[str, Any] = dict(span.attributes or {})
    assert (attributes["rpc.response.status_code"], failed(span)) == (code, fault)
    assert attributes.get("error.type") == (code if fault else None)
    # What an exception says may hold what the caller sent.
    assert "s3cret" not in span.to_json()


async def test_the_span_of_a_stream_lasts_as_long_as_the_stream() -> None:
    spans = Spans()
    open_while_sending = []

    async def stream(request: Message, context: Context) -> AsyncIterator[Answer]:
        for number in range(3):
            open_while_sending.append(len(spans.ended))
            yield Answer(status=str(number))

    async with serving(ErrorAnswering(tracer=spans.tracer), stream=stream) as channel:
        assert len([one async for one in call_stream(channel)]) == 3
    assert open_while_sending == [0, 0, 0]
    assert [span.name for span in spans.ended] == ["test.Service/Stream"]
