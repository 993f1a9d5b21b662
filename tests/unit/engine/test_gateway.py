"""The gateway forwards what it must, meters all of it, and lets neither credential cross."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine import session as session_module
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall
from cloutagent_server.engine.gateway import ModelGateway, VendorError
from cloutagent_server.engine.listening import OrderedListener
from tests.support.gateway_stage import CONFIG, KEY, MODEL, PRICES, error_of, running
from tests.support.messages import (
    RememberingListener,
    Reply,
    answering,
    failing,
    stream_events,
    streaming,
)

WAIT = 5.0


async def test_a_stream_goes_through_unchanged_and_is_metered() -> None:
    events = stream_events(120, 7)
    async with running(streaming(events, {"request-id": "req_1"})) as run:
        async with run.post() as answer:
            assert (answer.status, await answer.read()) == (200, b"".join(events))
            assert answer.headers["request-id"] == "req_1"
        assert list(run.listener.calls.values()) == [TokenUsage(120, 7, MODEL)]
        assert run.session.calls == run.listener.calls
        assert run.session.last_error is None


async def test_usage_is_reported_while_the_answer_goes_on() -> None:
    events = stream_events(120, 7)
    steps = [asyncio.Event() for _ in events]

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event, step in zip(events, steps, strict=True):
            await response.write(event)
            await step.wait()
        return response

    async with running(reply) as run, run.post() as answer:
        for event, step in zip(events, steps, strict=True):
            assert await asyncio.wait_for(answer.content.readexactly(len(event)), WAIT) == event
            told = [1, 7] if b"message_delta" in event or b"message_stop" in event else [1]
            async with asyncio.timeout(WAIT):
                while [usage.completion_tokens for _, usage in run.listener.reports] != told:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            step.set()


async def test_a_plain_answer_is_metered() -> None:
    document = {"type": "message", "usage": {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 9}}
    async with running(answering(document)) as run:
        async with run.post({"model": MODEL, "max_tokens": 10, "messages": []}) as answer:
            assert await answer.json() == document
        assert list(run.listener.calls.values()) == [TokenUsage(8, 9, MODEL, cache_read_tokens=3)]


async def test_each_call_has_its_own_id() -> None:
    async with running(streaming(stream_events(10, 2))) as run:
        for _ in range(3):
            async with run.post() as answer:
                await answer.read()
        assert list(run.session.calls.values()) == [TokenUsage(10, 2, MODEL)] * 3


async def test_the_request_follows_the_configuration() -> None:
    async with running(streaming(stream_events(1, 1)), RememberingListener(allowance=70)) as run:
        body = {"model": MODEL, "max_tokens": 32_000, "stream": True, "top_p": 0.5, "messages": [{"role": "user"}]}
        async with run.post(body) as answer:
            await answer.read()
        assert run.listener.asked == [(MODEL, 1000)]
        (received,) = run.upstream.received
        assert received.path == "/v1/messages?beta=true"
        assert received.body == {
            "model": MODEL,
            "max_tokens": 70,
            "stream": True,
            "temperature": 0.3,
            "messages": [{"role": "user"}],
        }


async def test_a_smaller_request_stays_small() -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post({"model": MODEL, "max_tokens": 12, "messages": []}) as answer:
            await answer.read()
        assert run.listener.asked == [(MODEL, 12)]
        assert run.upstream.received[0].body["max_tokens"] == 12


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
async def test_the_real_key_takes_the_place_of_the_token(header: str) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        value = run.session.token if header == "x-api-key" else f"Bearer {run.session.token}"
        async with run.post(headers={header: value, "anthropic-version": "2023-06-01"}) as answer:
            seen = str(answer.headers) + (await answer.text())
        (received,) = run.upstream.received
        assert received.headers["x-api-key"] == KEY
        assert received.headers["anthropic-version"] == "2023-06-01"
        assert received.headers["host"] == run.upstream.url.removeprefix("http://")
        assert run.session.token not in json.dumps([received.path, received.headers, received.body])
        assert KEY not in seen


async def test_an_upstream_that_echoes_the_key_does_not_reveal_it() -> None:
    async with running(failing(401, "authentication_error", f"invalid x-api-key {KEY}")) as run, run.post() as answer:
        assert answer.status == 401
        assert (await error_of(answer))["message"] == "invalid x-api-key [redacted]"
        assert run.session.last_error == VendorError(401, "invalid x-api-key [redacted]")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer wröng"}, {"x-api-key": KEY}])
async def test_a_wrong_credential_is_refused(headers: dict[str, str]) -> None:
    async with running(streaming(stream_events(1, 1))) as run, run.post(headers=headers) as answer:
        assert answer.status == 401
        assert (await error_of(answer))["type"] == "authentication_error"
        assert run.upstream.received == []


async def test_a_closed_session_is_refused() -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        other = run.gateway.open(CONFIG, OrderedListener(RememberingListener()))
        await run.gateway.close(run.session)
        await run.gateway.close(run.session)
        async with run.post() as answer:
            assert answer.status == 401
        async with run.post(headers={"x-api-key": other.token}) as answer:
            assert answer.status == 200
        assert other.token != run.session.token


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/messages"),
        ("POST", "/v1/messages/batches"),
        ("POST", "/v1/complete"),
        ("GET", "/"),
        ("POST", "/v1/messages/"),
        ("POST", "//v1/messages"),
        ("POST", "/v1/messages/count_tokens/../batches"),
        ("HEAD", "/v1/models"),
    ],
)
async def test_everything_else_is_not_found(method: str, path: str) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        headers = {"x-api-key": run.session.token}
        async with run.http.request(method, run.session.base_url + path, headers=headers, json={}) as answer:
            assert answer.status == 404
        assert run.upstream.received == []


async def test_counting_tokens_is_forwarded_and_free() -> None:
    async with running(answering({"input_tokens": 42})) as run:
        async with run.post({"model": MODEL, "messages": []}, "/v1/messages/count_tokens?beta=true") as answer:
            assert await answer.json() == {"input_tokens": 42}
        assert run.upstream.received[0].path == "/v1/messages/count_tokens?beta=true"
        assert run.upstream.received[0].body == {"model": MODEL, "messages": []}
        assert (run.listener.asked, run.listener.reports) == ([], [])


async def test_a_refused_call_does_not_go_out() -> None:
    async with running(streaming([]), RememberingListener(refusal=CallRefused("nothing is left"))) as run:
        async with run.post() as answer:
            assert answer.status == 402
            assert await error_of(answer) == {"type": "billing_error", "message": "nothing is left"}
        assert run.upstream.received == []
        assert run.session.last_error is None


async def test_the_input_can_be_counted_before_a_call_goes_out() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/messages/count_tokens":
            return web.json_response({"input_tokens": 42})
        return await streaming(stream_events(42, 1))(request)

    body = {"model": MODEL, "max_tokens": 10, "stream": True, "system": "s", "messages": [{"role": "user"}]}
    async with running(reply) as run:
        async with run.post(body) as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert planned.input_bound is not None and planned.input_bound > 42
        assert await planned.count_input() == 42
        counted = run.upstream.received[-1]
        assert counted.path == "/v1/messages/count_tokens"
        assert counted.headers["x-api-key"] == KEY
        assert counted.body == {"model": MODEL, "system": "s", "messages": [{"role": "user"}]}


@pytest.mark.parametrize(
    "reply",
    [
        answering({"type": "error", "error": {"type": "api_error", "message": "m"}}, status=500),
        answering({"input_tokens": "many"}),
        answering([]),
    ],
)
async def test_input_that_the_vendor_does_not_count_is_not_known(reply: Reply) -> None:
    async with running(reply) as run:
        async with run.post() as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert await planned.count_input() is None


async def test_input_is_not_known_when_the_vendor_breaks_off() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/messages/count_tokens":
            assert request.transport is not None
            request.transport.abort()
        return await streaming(stream_events(1, 1))(request)

    async with running(reply) as run:
        async with run.post() as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert await planned.count_input() is None


async def test_an_allowance_of_nothing_is_a_refusal() -> None:
    async with running(streaming([]), RememberingListener(allowance=0)) as run, run.post() as answer:
        assert answer.status == 402
        assert run.upstream.received == []


async def test_a_fault_of_the_listener_stops_calls_and_is_kept() -> None:
    fault = OSError("disk full at /secret/path")
    async with running(streaming([]), RememberingListener(refusal=fault)) as run:
        for _ in range(2):
            async with run.post() as answer:
                assert answer.status == 402
                assert "secret" not in (await error_of(answer))["message"]
        assert run.session.listener.fault is fault
        assert (len(run.listener.asked), run.upstream.received) == (1, [])


@pytest.mark.parametrize("body", [{"max_tokens": 5}, {"model": "claude-2"}, {"model": 7}, [], "text"])
async def test_a_model_without_a_price_is_refused(body: object) -> None:
    async with running(streaming(stream_events(1, 1))) as run, run.post(body) as answer:
        assert answer.status == 400
        assert (await error_of(answer))["type"] == "invalid_request_error"
        assert run.upstream.received == []


async def test_what_is_not_json_is_refused() -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        url = f"{run.session.base_url}/v1/messages"
        async with run.http.post(url, data=b"{", headers={"x-api-key": run.session.token}) as answer:
            assert answer.status == 400
        async with run.post({"model": MODEL, "max_tokens": 0, "messages": []}) as answer:
            assert answer.status == 400
        assert run.upstream.received == []


@pytest.mark.parametrize(
    ("status", "kind", "headers"),
    [
        (400, "invalid_request_error", {"request-id": "req_9"}),
        (429, "rate_limit_error", {"retry-after": "7", "anthropic-ratelimit-requests-remaining": "0"}),
        (529, "overloaded_error", {"x-should-retry": "true"}),
    ],
)
async def test_errors_of_the_vendor_are_passed_on_faithfully(status: int, kind: str, headers: dict[str, str]) -> None:
    async with running(failing(status, kind, "what is wrong", headers)) as run, run.post() as answer:
        assert answer.status == status
        assert await error_of(answer) == {"type": kind, "message": "what is wrong"}
        assert {name: answer.headers.get(name) for name in headers} == headers
        assert run.session.last_error == VendorError(status, "what is wrong")
        assert run.listener.reports == []


async def test_an_error_that_is_no_document_keeps_its_status() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503, text="<html>")

    async with running(reply) as run, run.post() as answer:
        assert (answer.status, await answer.text()) == (503, "<html>")
        assert run.session.last_error == VendorError(503, "Service Unavailable")


async def test_an_error_inside_a_stream_is_kept_with_the_usage_before_it() -> None:
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    async with running(streaming([*stream_events(30, 9)[:3], error])) as run:
        async with run.post() as answer:
            assert (await answer.read()).endswith(error)
        assert run.session.last_error == VendorError(None, "Overloaded")
        assert list(run.session.calls.values()) == [TokenUsage(30, 1, MODEL)]


async def test_an_upstream_that_is_not_there_is_a_bad_gateway() -> None:
    async with running(streaming([])) as run:
        gateway = ModelGateway("http://127.0.0.1:1", KEY, PRICES)
        await gateway.start()
        try:
            session = gateway.open(CONFIG, OrderedListener(run.listener))
            headers = {"x-api-key": session.token}
            body = {"model": MODEL, "max_tokens": 1, "messages": []}
            async with run.http.post(f"{session.base_url}/v1/messages", json=body, headers=headers) as answer:
                assert answer.status == 502
                assert (await error_of(answer))["type"] == "api_error"
                assert KEY not in await answer.text()
            assert session.last_error == VendorError(None, "it cannot be reached")
        finally:
            await gateway.stop()


async def test_a_stream_cut_by_the_vendor_is_cut_for_the_agent() -> None:
    sent = stream_events(30, 9)[:3]

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await streaming(sent)(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async with running(reply) as run:
        async with run.post() as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert run.session.last_error == VendorError(None, "its answer broke off")
        assert list(run.session.calls.values()) == [TokenUsage(30, 1, MODEL)]


async def _start_then_wait(request: web.Request) -> web.StreamResponse:
    response = await streaming(stream_events(30, 9)[:1])(request)
    await asyncio.Event().wait()
    return response


SILENT = VendorError(None, "it sent nothing for 0.2 s")


async def test_a_stream_that_falls_silent_is_cut_for_the_agent() -> None:
    async with running(_start_then_wait, silence_seconds=0.2) as run:
        async with run.post() as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert run.session.last_error == SILENT
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert run.listener.ends == [(CallEnd.CUT, TokenUsage(30, 1, MODEL))]


async def test_a_stream_that_is_slow_but_not_silent_goes_through() -> None:
    sent = stream_events(30, 9)

    async def reply(request: web.Request) -> web.StreamResponse:
        response = await streaming([])(request)
        for part in sent:
            await asyncio.sleep(0.1)
            await response.write(part)
        return response

    async with running(reply, silence_seconds=0.5) as run, run.post() as answer:
        assert await answer.read() == b"".join(sent)
        assert run.session.last_error is None


async def _never(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def _half_a_document(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "100"})
    await response.prepare(request)
    await response.write(b"{")
    return await _never(request)


@pytest.mark.parametrize("reply", [_never, _half_a_document])
async def test_a_vendor_that_says_nothing_is_given_up(reply: Reply) -> None:
    async with running(reply, silence_seconds=0.2) as run:
        async with run.post() as answer:
            assert answer.status == 504
            assert (await error_of(answer))["type"] == "timeout_error"
        assert run.session.last_error == SILENT
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert run.listener.ends == [(CallEnd.CUT, None)]


async def test_an_agent_that_leaves_ends_the_call_upstream() -> None:
    async with running(_start_then_wait) as run:
        async with run.post() as answer:
            await answer.content.readline()
            answer.close()
        await asyncio.wait_for(run.upstream.cancelled.wait(), WAIT)
        assert list(run.session.calls.values()) == [TokenUsage(30, 1, MODEL)]


async def test_the_calls_that_a_run_makes_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "CALLS_AT_ONCE", 2)
    async with running(_start_then_wait) as run:
        async with run.post() as first, run.post() as second:
            for answer in (first, second):
                await answer.content.readline()
            async with run.post() as third:
                assert third.status == 429
                assert (await error_of(third))["type"] == "rate_limit_error"
            assert len(run.upstream.received) == 2
            first.close()
            await asyncio.wait_for(run.upstream.cancelled.wait(), WAIT)
            async with asyncio.timeout(WAIT):
                while run.session.busy:  # noqa: ASYNC110 - it ends behind a connection
                    await asyncio.sleep(0.01)
        async with run.post() as fourth:
            assert fourth.status == 200


async def test_closing_a_session_ends_its_calls() -> None:
    async with running(_start_then_wait) as run:
        async with run.post() as answer:
            await answer.content.readline()
            await asyncio.wait_for(run.gateway.close(run.session), WAIT)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        await asyncio.wait_for(run.upstream.cancelled.wait(), WAIT)


async def test_a_report_under_way_arrives_although_its_call_is_cut() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    class SlowListener(RememberingListener):
        async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
            begun.set()
            await go_on.wait()
            await super().on_usage(call_id, usage)

    async with running(streaming(stream_events(30, 9)), SlowListener()) as run, run.post() as answer:
        await asyncio.wait_for(begun.wait(), WAIT)
        closing = asyncio.create_task(run.gateway.close(run.session))
        await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await asyncio.wait_for(closing, WAIT)
        assert run.session.calls == run.listener.calls != {}
        answer.close()


async def test_a_fault_in_a_report_cuts_the_stream() -> None:
    class BrokenListener(RememberingListener):
        async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
            raise OSError("disk full")

    async with running(streaming(stream_events(30, 9)), BrokenListener()) as run:
        async with run.post() as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        assert isinstance(run.session.listener.fault, OSError)
        async with run.post() as answer:
            assert answer.status == 402
        assert len(run.upstream.received) == 1


async def test_a_slow_agent_holds_back_the_upstream() -> None:
    sent = 0
    block = b": " + b"x" * 65_534

    async def reply(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while sent < 2_000:
            await response.write(block)
            sent += 1
        return response

    async with running(reply) as run, run.post() as answer:
        await answer.content.readany()
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.1)
        assert sent < 1_000
        answer.close()


async def test_a_plain_answer_cut_by_the_vendor_is_a_bad_gateway() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "100"})
        await response.prepare(request)
        await response.write(b'{"type":')
        assert request.transport is not None
        request.transport.close()
        return response

    async with running(reply) as run, run.post() as answer:
        assert answer.status == 502
        assert run.session.last_error == VendorError(None, "its answer broke off")


async def test_a_request_larger_than_the_vendor_takes_is_refused() -> None:
    async with running(streaming([])) as run:
        headers = {"x-api-key": run.session.token}
        url = f"{run.session.base_url}/v1/messages"
        async with run.http.post(url, data=io.BytesIO(b" " * (33 * 1024 * 1024)), headers=headers) as answer:
            assert answer.status == 413
            assert (await error_of(answer))["type"] == "request_too_large"
        assert run.upstream.received == []


async def test_a_success_forgets_the_failure_before_it() -> None:
    async with running(failing(529, "overloaded_error", "Overloaded")) as run:
        async with run.post() as answer:
            assert answer.status == 529
        run.upstream.reply = streaming(stream_events(1, 1))
        async with run.post() as answer:
            await answer.read()
        assert run.session.last_error is None


async def test_a_long_prompt_goes_through_unchanged() -> None:
    text = "ä\ud800 \u2028" * 400_000
    async with running(streaming(stream_events(1, 1))) as run:
        body = json.dumps({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": text}]})
        url = f"{run.session.base_url}/v1/messages"
        headers = {"x-api-key": run.session.token}
        async with run.http.post(url, data=io.BytesIO(body.encode()), headers=headers) as answer:
            assert answer.status == 200
        assert run.upstream.received[0].body["messages"] == [{"role": "user", "content": text}]


# How the bill of a call stands after its end.


def _then_close(reply: Reply) -> Reply:
    async def closing(request: web.Request) -> web.StreamResponse:
        response = await reply(request)
        assert request.transport is not None
        request.transport.close()
        return response

    return closing


async def _gone(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


ERROR_EVENT = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (streaming(stream_events(30, 9)), CallEnd.TOLD),
        (answering({"type": "message", "usage": {"input_tokens": 3, "output_tokens": 4}}), CallEnd.TOLD),
        (_then_close(streaming(stream_events(30, 9)[:5])), CallEnd.TOLD),
        (failing(529, "overloaded_error", "Overloaded"), CallEnd.FREE),
        (failing(400, "invalid_request_error", "no"), CallEnd.FREE),
        (streaming([ERROR_EVENT]), CallEnd.FREE),
        (streaming([*stream_events(30, 9)[:3], ERROR_EVENT]), CallEnd.CUT),
        (_then_close(streaming(stream_events(30, 9)[:3])), CallEnd.CUT),
        (streaming(stream_events(30, 9)[:3]), CallEnd.CUT),
        (streaming([]), CallEnd.CUT),
        (_gone, CallEnd.CUT),
        (answering({"type": "message"}), CallEnd.CUT),
        (answering([]), CallEnd.CUT),
    ],
)
async def test_the_listener_is_told_once_how_a_call_ended(reply: Reply, end: CallEnd) -> None:
    async with running(reply) as run:
        async with run.post() as answer:
            with suppress(aiohttp.ClientPayloadError):
                await answer.read()
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert run.listener.ends == [(end, run.listener.reports[-1][1] if run.listener.reports else None)]


async def test_a_call_that_could_not_go_out_was_not_billed() -> None:
    async with running(streaming([])) as run:
        gateway = ModelGateway("http://127.0.0.1:1", KEY, PRICES)
        await gateway.start()
        try:
            session = gateway.open(CONFIG, OrderedListener(run.listener))
            body = {"model": MODEL, "max_tokens": 1, "messages": []}
            headers = {"x-api-key": session.token}
            async with run.http.post(f"{session.base_url}/v1/messages", json=body, headers=headers) as answer:
                assert answer.status == 502
        finally:
            await gateway.stop()
        assert run.listener.ends == [(CallEnd.FREE, None)]


async def test_a_refused_call_ends_as_not_billed() -> None:
    async with running(streaming([]), RememberingListener(refusal=CallRefused("nothing is left"))) as run:
        async with run.post() as answer:
            assert answer.status == 402
        assert run.listener.ends == [(CallEnd.FREE, None)]


async def test_an_agent_that_leaves_cuts_its_call() -> None:
    async with running(_start_then_wait) as run:
        async with run.post() as answer:
            await answer.content.readline()
            answer.close()
        await asyncio.wait_for(run.upstream.cancelled.wait(), WAIT)
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert run.listener.ends == [(CallEnd.CUT, TokenUsage(30, 1, MODEL))]


async def test_an_agent_that_leaves_while_its_call_is_cleared_ends_the_asking() -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Waiting(RememberingListener):
        async def before_call(self, call: PlannedCall) -> int:
            asked.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return 1

    async with running(streaming([]), Waiting()) as run:
        posting = asyncio.ensure_future(run.post().__aenter__())
        await asyncio.wait_for(asked.wait(), WAIT)
        posting.cancel()
        await asyncio.wait_for(cancelled.wait(), WAIT)
        await asyncio.wait_for(run.gateway.close(run.session), WAIT)
        assert (run.listener.ends, run.upstream.received) == ([(CallEnd.FREE, None)], [])


async def test_what_is_added_for_tools_is_counted_once() -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/messages/count_tokens":
            return web.json_response({"input_tokens": 700})
        return await streaming(stream_events(42, 1))(request)

    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    body = {"model": MODEL, "max_tokens": 10, "stream": True, "messages": [], "tools": tools}
    async with running(reply) as run:
        for _ in range(2):
            async with run.post(body) as answer:
                await answer.read()
            await run.listener.planned[-1].count_input()
        first, second = run.listener.planned
        assert first.input_bound is None
        assert second.input_bound is not None and 700 < second.input_bound < 800


@pytest.mark.parametrize(
    ("extra", "bounded", "unbounded"),
    [
        ({}, True, False),
        ({"system": [{"type": "text", "text": "s"}]}, True, False),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64"}}]}]}, False, False),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "document"}]}]}]},
            False,
            False,
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}]}, False, True),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]}, True, False),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, False, False),
        ({"output_config": {"effort": "low"}}, False, False),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, False, True),
        ({"mcp_servers": [{"type": "url"}]}, False, True),
        ({"container": "c1"}, False, True),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, False, True),
    ],
)
async def test_what_bytes_do_not_bound(extra: dict[str, Any], bounded: bool, unbounded: bool) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post({"model": MODEL, "max_tokens": 10, "messages": [], **extra}) as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert (planned.input_bound is not None, planned.unbounded is not None) == (bounded, unbounded)


@pytest.mark.parametrize(
    ("control", "write", "hour"),
    [
        (None, False, False),
        ({"type": "ephemeral"}, True, False),
        ({"type": "ephemeral", "ttl": "5m"}, True, False),
        ({"type": "ephemeral", "ttl": "1h"}, True, True),
        ({"type": "ephemeral", "ttl": 3600}, True, True),
        ({"type": "ephemeral", "ttl": None}, True, True),
        ({"type": "ephemeral", "ttl": "5min"}, True, True),
        ({"type": "ephemeral", "ttl": ["5m"]}, True, True),
        ("1h", True, True),
    ],
)
@pytest.mark.parametrize("place", ["top", "block"])
async def test_what_may_be_written_to_the_cache(control: object, write: bool, hour: bool, place: str) -> None:
    block: dict[str, Any] = {"type": "text", "text": 'a "cache_control": {"ttl":"1h"}'}
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 10, "messages": [{"role": "user", "content": [block]}]}
    if control is not None:
        (body if place == "top" else block)["cache_control"] = control
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post(body) as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert (planned.cache_write, planned.cache_write_1h) == (write, hour)


async def test_what_is_priced_apart_from_the_list_does_not_go_out() -> None:
    body = {
        "model": MODEL,
        "max_tokens": 1,
        "messages": [],
        "speed": "fast",
        "service_tier": "auto",
        "inference_geo": "us",
    }
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post(body) as answer:
            await answer.read()
        assert set(run.upstream.received[0].body) == {"model", "max_tokens", "messages", "temperature"}
