"""The benchmarks of REST calls run."""

from __future__ import annotations

import pytest

from benchmarks.rest.__main__ import QUICK, run

pytestmark = pytest.mark.e2e


async def test_the_quick_form_measures_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(QUICK) == 0
    printed = capsys.readouterr().out
    assert "load of the machine" in printed
    ways = ("REST, through Envoy", "gRPC, direct", "FastAPI and uvicorn")
    for name in (
        *ways,
        *(f"{way}, {what}" for way in ways for what in ("p50", "p99", "CPU of a call")),
        *(f"{ways[0]}, of {way}: {what}" for way in ways[1:] for what in ("calls/s", "p50", "p99", "CPU")),
        "memory of Envoy, 10 slow readers",
        "memory of Envoy, each of 10 slow readers",
        "memory of the server, 10 slow readers",
    ):
        assert f"\n{name} " in printed
