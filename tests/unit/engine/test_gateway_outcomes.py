"""How the gateway tells of its calls: an outcome for each, and when the vendor began to answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest

from cloutagent_server.domain.metrics import CallOutcome, Metrics
from cloutagent_server.engine.base import CallRefused
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.monitoring.prometheus import PrometheusMetrics
from tests.support.gateway_stage import KEY, MODEL, PRICES, Run, running
from tests.support.messages import RememberingListener, Reply, answering, failing, stream_events, streaming
from tests.support.scraping import Scrape
from tests.support.spans import Spans, failed, parent_of

WAIT = 5.0
Told = tuple[str, CallOutcome, float | None]


class Notes(Metrics):
    """Remembers how calls ended."""

    def __init__(self) -> None:
        self.calls: list[Told] = []

    def model_call_ended(self, model: str, outcome: CallOutcome, first_byte: float | None) -> None:
        self.calls.append((model, outcome, first_byte))


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def silent_in_the_middle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(stream_events(9, 3)[0])
    await asyncio.Event().wait()
    return response


async def broken(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(stream_events(9, 3)[0])
    assert request.transport is not None
    request.transport.abort()
    return response


ERROR = b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}\n\n'


async def asked(run: Run) -> None:
    """Make one call and let it end."""
    with suppress(aiohttp.ClientError):
        async with run.post() as answer:
            await answer.read()
    await asyncio.wait_for(run.gateway.close(run.session), WAIT)


@pytest.mark.parametrize(
    ("reply", "outcome", "answered"),
    [
        (streaming(stream_events(9, 3)), CallOutcome.OK, True),
        (answering({"model": MODEL, "usage": {"input_tokens": 9, "output_tokens": 3}}), CallOutcome.OK, True),
        (failing(529, "overloaded_error", "busy"), CallOutcome.VENDOR_ERROR, True),
        (streaming([stream_events(9, 3)[0], ERROR]), CallOutcome.VENDOR_ERROR, True),
        (silent, CallOutcome.TIMEOUT, False),
        (silent_in_the_middle, CallOutcome.TIMEOUT, True),
        (broken, CallOutcome.BROKEN, True),
    ],
)
async def test_each_call_has_one_outcome(reply: Reply, outcome: CallOutcome, answered: bool) -> None:
    notes = Notes()
    async with running(reply, silence_seconds=0.2, metrics=notes) as run:
        await asked(run)
    [(model, told, first_byte)] = notes.calls
    assert (model, told) == (MODEL, outcome)
    assert (first_byte is not None) is answered
    assert first_byte is None or 0 < first_byte < WAIT


@pytest.mark.parametrize("listener", [RememberingListener(allowance=0), RememberingListener(refusal=CallRefused("no"))])
async def test_a_call_without_room_is_refused(listener: RememberingListener) -> None:
    notes = Notes()
    async with running(streaming(stream_events(9, 3)), listener, metrics=notes) as run:
        await asked(run)
        assert run.upstream.received == []
    assert notes.calls == [(MODEL, CallOutcome.REFUSED, None)]


async def test_a_vendor_that_is_not_there_is_unreachable() -> None:
    notes = Notes()
    async with running(silent, metrics=notes) as run:
        run.gateway._upstream._base_url = "http://127.0.0.1:9"
        await asked(run)
    assert notes.calls == [(MODEL, CallOutcome.UNREACHABLE, None)]


async def test_a_run_that_ends_cuts_its_call() -> None:
    notes, begun = Notes(), asyncio.Event()

    async def begins(request: web.Request) -> web.StreamResponse:
        begun.set()
        return await silent(request)

    async with running(begins, metrics=notes) as run:
        call = asyncio.ensure_future(asked(run))
        await asyncio.wait_for(begun.wait(), WAIT)
        await run.gateway.close(run.session)
        await asyncio.wait_for(call, WAIT)
    assert notes.calls == [(MODEL, CallOutcome.CUT, None)]


@pytest.mark.parametrize(
    ("reply", "outcome", "fault"),
    [(streaming(stream_events(9, 3)), "ok", False), (failing(529, "overloaded_error", "busy"), "vendor_error", True)],
)
async def test_a_call_is_a_span_in_the_trace_of_its_run(reply: Reply, outcome: str, fault: bool) -> None:
    spans = Spans()
    with spans.tracer.start_as_current_span("run") as around:
        async with running(reply, tracer=spans.tracer) as run:
            await asked(run)
    span = next(span for span in spans.ended if span.name == f"chat {MODEL}")
    assert (parent_of(span), span.kind.name) == (around.get_span_context().span_id, "CLIENT")
    told: dict[str, object] = dict(span.attributes or {})
    assert (told["cloutagent.model_call.outcome"], failed(span)) == (outcome, fault)
    assert told.get("error.type") == (outcome if fault else None)
    assert isinstance(told["gen_ai.response.time_to_first_chunk"], float)
    used = (9, 3, Decimal("0.000072")) if not fault else (None, None, None)
    cost = told.get("cloutagent.model_call.cost_usd")
    assert (told.get("gen_ai.usage.input_tokens"), told.get("gen_ai.usage.output_tokens")) == used[:2]
    assert (None if cost is None else Decimal(str(cost))) == used[2]
    assert KEY not in span.to_json() and "busy" not in span.to_json()


async def test_the_gateway_tells_whether_it_listens() -> None:
    gateway = ModelGateway("http://127.0.0.1:9", KEY, PRICES)
    told = [gateway.listening]
    await gateway.start()
    told.append(gateway.listening)
    await gateway.stop()
    told.append(gateway.listening)
    assert told == [False, True, False]


async def test_models_are_named_as_the_price_list_does() -> None:
    metrics = PrometheusMetrics(PRICES, "1.2.3")
    for model in (MODEL, f"{MODEL}-20250929", "a-model-of-mine", "another"):
        metrics.model_call_ended(model, CallOutcome.OK, 0.5)
    metrics.model_call_ended(MODEL, CallOutcome.TIMEOUT, None)
    scrape = Scrape(metrics_text(metrics))
    assert scrape.sum("cloutagent_model_calls_total", model=MODEL, outcome="ok") == 2
    assert scrape.sum("cloutagent_model_calls_total", model=MODEL, outcome="timeout") == 1
    assert scrape.sum("cloutagent_model_calls_total", model="other") == 2
    assert scrape.sum("cloutagent_model_first_byte_seconds_count") == 4
    assert "of-mine" not in metrics_text(metrics)


def metrics_text(metrics: PrometheusMetrics) -> str:
    """What a scraper would see."""
    return generate_latest(metrics.registry).decode()
