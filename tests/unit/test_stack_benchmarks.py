"""The benchmarks of REST calls and of the clients run. One server and one Envoy do for both."""

from __future__ import annotations

import pytest

from benchmarks.clients import __main__ as clients
from benchmarks.rest import __main__ as rest
from benchmarks.stack import stack

pytestmark = pytest.mark.e2e


async def test_the_quick_forms_measure_everything(capsys: pytest.CaptureFixture[str]) -> None:
    async with stack() as under:
        assert await rest.run(under, rest.QUICK) == 0
        of_rest = capsys.readouterr().out
        await clients.run(under, clients.QUICK)
        of_clients = capsys.readouterr().out
    assert "load of the machine" in of_rest
    ways = ("REST, through Envoy", "gRPC, direct", "FastAPI and uvicorn")
    for name in (
        *ways,
        *(f"{way}, {what}" for way in ways for what in ("p50", "p99", "CPU of a call")),
        *(f"{ways[0]}, of {way}: {what}" for way in ways[1:] for what in ("calls/s", "p50", "p99", "CPU")),
        "memory of Envoy, 10 slow readers",
        "memory of Envoy, each of 10 slow readers",
        "memory of the server, 10 slow readers",
    ):
        assert f"\n{name} " in of_rest
    assert "load of the machine" in of_clients
    for client, bare in (
        ("Client", "grpc"),
        ("AsyncClient", "grpc.aio"),
        ("CloutAgentClient", "fetch"),
        ("CloutAgentClient", "Connect, gRPC-Web"),
    ):
        for what in ("projects.get", "executions.get", "an event"):
            assert f"\n{client}, {what}, over {bare} " in of_clients
