"""An answer counts as told only if it told all there is to be billed; what the vendor sends is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine import metering, upstream
from cloutagent_server.engine.base import CallEnd
from cloutagent_server.engine.gateway import VendorError
from tests.support.gateway_stage import KEY, MODEL, PRICES, error_of, running
from tests.support.messages import Reply, answering, stream_events, streaming

WAIT = 5.0
Ended = tuple[CallEnd, TokenUsage | None]


async def ended(reply: Reply, model: str = MODEL) -> Ended:
    """How a call ends that is answered so."""
    async with running(reply) as run:
        async with run.post({"model": model, "max_tokens": 1000, "messages": []}) as answer:
            with suppress(aiohttp.ClientPayloadError):
                await answer.read()
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        (end,) = run.listener.ends
        return end


def started(usage: object, **message: Any) -> dict[str, Any]:
    return {"type": "message_start", "message": {"usage": usage, **message}}


def finished(usage: object) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


def events(*documents: Mapping[str, Any]) -> Reply:
    return streaming([f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in documents])


@pytest.mark.parametrize(
    "reply",
    [
        events(started({}), finished({"output_tokens": 7})),
        events(started({"input_tokens": 1500.0, "output_tokens": 1}), finished({"output_tokens": 7})),
        events({"type": "message_start", "usage": {"input_tokens": 9}, "message": {}}, finished({"output_tokens": 7})),
        events(started({"output_tokens": 1})),
        events(started({"input_tokens": 9}), finished({"output_tokens": 10**30})),
        events(started({"input_tokens": 2**31, "output_tokens": 1}), finished({"output_tokens": 7})),
        events(started({"input_tokens": 9, "cache_read_input_tokens": "3"}), finished({"output_tokens": 7})),
        answering({"usage": {"output_tokens": 7}}),
        answering({"usage": {"input_tokens": -5, "output_tokens": 7}}),
        answering({"usage": {"input_tokens": 5, "output_tokens": 10**30}}),
    ],
)
async def test_input_that_was_not_told_leaves_the_reservation(reply: Reply) -> None:
    assert await ended(reply) == (CallEnd.CUT, None)


async def test_output_that_was_not_told_counts_as_cut() -> None:
    assert await ended(answering({"usage": {"input_tokens": 5}})) == (CallEnd.CUT, TokenUsage(5, 0, MODEL))
    assert await ended(events(started({"input_tokens": 5}), finished({"output_tokens": None}))) == (
        CallEnd.CUT,
        TokenUsage(5, 0, MODEL),
    )


async def test_what_was_written_to_the_cache_is_the_larger_of_total_and_parts() -> None:
    parts = {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 1500}
    usage = {"input_tokens": 3, "output_tokens": 7, "cache_creation": parts}
    assert await ended(answering({"usage": usage})) == (CallEnd.TOLD, TokenUsage(1603, 7, MODEL, 0, 1600, 1500))
    usage["cache_creation_input_tokens"] = 2000
    assert await ended(answering({"usage": usage})) == (CallEnd.TOLD, TokenUsage(2003, 7, MODEL, 0, 2000, 1500))


async def _odd_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=201, headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"".join(stream_events(1500, 7)))
    return response


def page(status: int, text: str = "<html>gateway time-out</html>") -> Reply:
    async def reply(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type="text/html")

    return reply


ERROR = {"type": "error", "error": {"type": "api_error", "message": "m"}}


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (_odd_stream, (CallEnd.CUT, None)),
        (answering({"usage": {"input_tokens": 5, "output_tokens": 7}}, 202), (CallEnd.CUT, TokenUsage(5, 7, MODEL))),
        (page(307), (CallEnd.CUT, None)),
        (page(404), (CallEnd.FREE, None)),
        (page(429), (CallEnd.FREE, None)),
        (page(502), (CallEnd.CUT, None)),
        (page(504), (CallEnd.CUT, None)),
        (page(524), (CallEnd.CUT, None)),
        (page(504, '{"error": "time-out"}'), (CallEnd.CUT, None)),
        (answering(ERROR, 500), (CallEnd.FREE, None)),
        (answering(ERROR, 504), (CallEnd.FREE, None)),
        (answering(ERROR, 529), (CallEnd.FREE, None)),
    ],
)
async def test_only_what_the_vendor_refused_itself_is_free(reply: Reply, end: Ended) -> None:
    assert await ended(reply) == end


HAIKU, OPUS = "claude-haiku-4-5", "claude-opus-4-1"


@pytest.mark.parametrize(
    ("asked", "answered", "end", "model"),
    [
        (HAIKU, HAIKU, CallEnd.TOLD, HAIKU),
        (HAIKU, "claude-haiku-4-5-20251001", CallEnd.TOLD, HAIKU),
        ("claude-haiku-4-5-20251001", HAIKU, CallEnd.TOLD, "claude-haiku-4-5-20251001"),
        (HAIKU, None, CallEnd.TOLD, HAIKU),
        (HAIKU, OPUS, CallEnd.CUT, OPUS),
        (OPUS, HAIKU, CallEnd.CUT, OPUS),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_the_dearer_model_counts_if_another_answers(
    asked: str, answered: str | None, end: CallEnd, model: str, stream: bool
) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 900}
    reply = (
        events(started(usage, model=answered), finished(usage))
        if stream
        else answering({"model": answered, "usage": usage})
    )
    assert await ended(reply, asked) == (end, TokenUsage(1000, 900, model))


async def test_a_model_that_nobody_knows_counts_as_the_dearest_of_all() -> None:
    end, usage = await ended(answering({"model": "claude-next-9", "usage": {"input_tokens": 10, "output_tokens": 9}}))
    assert end is CallEnd.CUT and usage is not None
    assert PRICES.cost(usage) == max(PRICES.cost(replace(usage, model=model.id)) for model in PRICES.models())


@pytest.mark.parametrize("stream", [True, False])
async def test_all_that_the_vendor_did_for_a_call_counts(stream: bool) -> None:
    iterations = [
        {"type": "compaction", "input_tokens": 1000, "output_tokens": 300},
        {"type": "message", "input_tokens": 200, "output_tokens": 50, "model": OPUS},
    ]
    usage = {"input_tokens": 200, "output_tokens": 50, "iterations": iterations}
    reply = events(started({"input_tokens": 200}), finished(usage)) if stream else answering({"usage": usage})
    assert await ended(reply, HAIKU) == (CallEnd.CUT, TokenUsage(1200, 350, OPUS))


async def test_iterations_that_cannot_be_read_leave_the_reservation() -> None:
    usage = {"input_tokens": 200, "output_tokens": 50, "iterations": [{"input_tokens": 5}, {}]}
    assert await ended(answering({"usage": usage})) == (CallEnd.CUT, None)
    usage["iterations"] = [{"input_tokens": 200, "output_tokens": 50}]
    assert await ended(answering({"usage": usage})) == (CallEnd.TOLD, TokenUsage(200, 50, MODEL))


async def test_a_document_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MOST_DOCUMENT_BYTES", 100_000)

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b" " * 10_000)
        return response

    async with running(reply) as run:
        async with run.post() as answer:
            assert answer.status == 502
            assert (await error_of(answer))["type"] == "api_error"
        assert run.listener.ends == [(CallEnd.CUT, None)]
        assert run.session.last_error is not None


async def test_an_event_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "MOST_EVENT_BYTES", 100_000)

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await streaming(stream_events(30, 9)[:1])(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"data: " + b"x" * 10_000 + b"\n")
        return response

    async with running(reply) as run:
        async with run.post() as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert run.listener.ends == [(CallEnd.CUT, TokenUsage(30, 1, MODEL))]
        assert run.session.last_error is not None


async def test_the_key_is_redacted_in_streams_and_headers() -> None:
    error = {"type": "error", "error": {"type": "authentication_error", "message": f"invalid {KEY}"}}
    data = f"event: error\ndata: {json.dumps(error)}\n\n".encode()
    cuts = [data[:60], data[60:75], data[75:]]

    async def reply(request: web.Request) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "x-echo": f"key={KEY}"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for part in cuts:
            await response.write(part)
            await asyncio.sleep(0.05)
        return response

    async with running(reply) as run, run.post() as answer:
        text = await answer.text()
        assert KEY not in text and "[redacted]" in text
        assert answer.headers["x-echo"] == "key=[redacted]"
        assert run.session.last_error == VendorError(None, "invalid [redacted]")
