"""Sending spans: what a receiver gets, and that one that is gone or hangs holds nobody up."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from cloutagent_server.monitoring import tracing
from cloutagent_server.monitoring.tracing import Tracing
from tests.support.trace_receiver import receiving


async def test_what_ended_before_the_stop_arrives() -> None:
    with receiving() as receiver:
        traced = Tracing(f"{receiver.url}/v1/traces", "1.2.3")
        for _ in range(1000):
            with traced.tracer.start_as_current_span("work"):
                pass
        await traced.stop()
        assert {(span.service, span.name) for span in receiver.spans} == {("cloutagent-server", "work")}
        assert len({span.id for span in receiver.spans}) == 1000
        assert b"1.2.3" in receiver.raw


async def test_without_a_receiver_there_are_no_spans() -> None:
    traced = Tracing(None, "1.2.3")
    with traced.tracer.start_as_current_span("work") as span:
        assert not span.is_recording()
    await traced.stop()


@pytest.fixture(params=["gone", "hangs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if request.param == "gone":
            silent.close()
        yield f"http://127.0.0.1:{port}/v1/traces"


async def test_a_receiver_that_takes_nothing_holds_up_no_stop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(tracing, "_STOP_SECONDS", 0.2)
    traced = Tracing(url, "1.2.3")
    # Some 16 requests, which would take as many seconds.
    for _ in range(8000):
        traced.tracer.start_span("work").end()
    begun = time.monotonic()
    await traced.stop()
    # One request is seen to its end, and the rest is given up.
    assert time.monotonic() - begun < 8
