"""An agent's requests take a bounded part of the server's memory and of its loop."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from cloutagent_server.engine import gateway as gateway_module
from cloutagent_server.engine import session as session_module
from cloutagent_server.engine.intake import NoRoom, Room, holding
from cloutagent_server.engine.messages_api import COUNT_TOKENS_PATH, MESSAGES_PATH
from cloutagent_server.engine.request_body import RequestBody, read_body
from tests.support.gateway_stage import MODEL, error_of, running
from tests.support.messages import answering, stream_events, streaming

WAIT = 5.0


def test_a_room_is_bounded_by_what_is_around_it() -> None:
    around = Room(100)
    one, other = Room(80, around), Room(80, around)
    with holding(one) as held:
        held.grow(50)
        held.grow(70)
        held.grow(60)
        with pytest.raises(NoRoom), holding(one) as more:
            more.grow(11)
        with holding(other) as beside:
            with pytest.raises(NoRoom):
                beside.grow(31)
            beside.grow(30)
    with holding(other) as alone:
        alone.grow(80)


async def _counted_slowly(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_the_bytes_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "RUN_BYTES", 250_000)
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 100_000}]}
    async with running(_counted_slowly) as run, AsyncExitStack() as waiting:
        posts = [asyncio.ensure_future(run.post(body).__aenter__()) for _ in range(2)]
        waiting.callback(lambda: [post.cancel() for post in posts])
        async with asyncio.timeout(WAIT):
            while len(run.upstream.received) < 2:  # noqa: ASYNC110 - they arrive behind a connection
                await asyncio.sleep(0.01)
        async with run.post(body) as third:
            assert third.status == 429
            assert (await error_of(third))["type"] == "rate_limit_error"
        url = run.session.base_url + MESSAGES_PATH
        async with run.http.post(url, data=_in_parts(body), headers={"x-api-key": run.session.token}) as fourth:
            assert fourth.status == 429
        assert len(run.upstream.received) == 2
        for post in posts:
            post.cancel()
        async with asyncio.timeout(WAIT):
            while run.session.busy or run.session._handlers:  # noqa: ASYNC110 - they end behind a connection
                await asyncio.sleep(0.01)
        run.upstream.reply = streaming(stream_events(1, 1))
        async with run.post(body) as fifth:
            assert fifth.status == 200


async def _in_parts(body: object) -> AsyncIterator[bytes]:
    """A body whose length nobody says beforehand."""
    data = json.dumps(body).encode()
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


async def test_a_body_without_a_length_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "MOST_BYTES", 50_000)
    body = {"model": MODEL, "messages": ["x" * 100_000]}
    async with running(streaming([])) as run:
        url = run.session.base_url + MESSAGES_PATH
        async with run.http.post(url, data=_in_parts(body), headers={"x-api-key": run.session.token}) as answer:
            assert answer.status == 413


async def test_what_is_only_counted_is_bounded_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "MOST_COUNTED_BYTES", 50_000)
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 60_000}]}
    async with running(answering({"input_tokens": 1})) as run:
        async with run.post(body, COUNT_TOKENS_PATH) as answer:
            assert answer.status == 413
        async with run.post(body) as answer:
            assert answer.status == 200


async def test_few_counts_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "COUNTS_AT_ONCE", 2)
    async with running(_counted_slowly) as run:
        posts = [asyncio.ensure_future(run.post(path=COUNT_TOKENS_PATH).__aenter__()) for _ in range(2)]
        async with asyncio.timeout(WAIT):
            while len(run.upstream.received) < 2:  # noqa: ASYNC110 - they arrive behind a connection
                await asyncio.sleep(0.01)
        async with run.post(path=COUNT_TOKENS_PATH) as third:
            assert third.status == 429
        run.upstream.reply = streaming(stream_events(1, 1))
        async with run.post() as call:
            assert call.status == 200
        for post in posts:
            post.cancel()


async def test_a_large_body_is_read_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def reading(raw: bytearray) -> RequestBody:
        seen.append((len(raw) > 128 * 1024, threading.current_thread() is threading.main_thread()))
        return read_body(raw)

    monkeypatch.setattr("cloutagent_server.engine.intake.read_body", reading)
    async with running(streaming(stream_events(1, 1))) as run:
        for size in (10, 200_000):
            content = "x" * size
            async with run.post({"model": MODEL, "messages": [{"role": "user", "content": content}]}) as answer:
                assert answer.status == 200
    assert seen == [(False, True), (True, False)]


async def test_a_body_of_nothing_but_brackets_is_refused_at_once() -> None:
    data = b'{"model":"claude-sonnet-4-5","messages":[' + b",".join([b"[]"] * 1_300_000) + b"]}"
    async with running(streaming([])) as run:
        for path in (MESSAGES_PATH, COUNT_TOKENS_PATH):
            headers = {"x-api-key": run.session.token}
            async with run.http.post(run.session.base_url + path, data=io.BytesIO(data), headers=headers) as answer:
                assert answer.status == 400
                assert (await error_of(answer))["message"] == "the request has too many parts"
        assert run.upstream.received == []
