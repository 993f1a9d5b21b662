"""Runs of the real agent on the local model, and what the model gateway adds to a call."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest import mock

import aiohttp

from benchmarks.executions.alone import PROMPT
from benchmarks.executions.figures import Figure
from benchmarks.executions.remote import Remote
from benchmarks.executions.serving import MODEL
from cloutagent_server.engine.local_model import Call, Ledger, LocalModel

# The issue's, in milliseconds.
FIRST_EVENT: Final = 20.0
FIRST_REQUEST_WARM: Final = 150.0
GATEWAY: Final = 2.0

# An agent is made ready in the time that a run of the SDK alone takes, or less.
_PAUSE: Final = 1.5
_BODY: Final = {
    "model": MODEL,
    "max_tokens": 64,
    "stream": True,
    "messages": [{"role": "user", "content": PROMPT}],
}


@asynccontextmanager
async def local_model() -> AsyncIterator[LocalModel]:
    """A local model at work."""
    model = LocalModel()
    await model.start()
    try:
        yield model
    finally:
        await model.stop()


async def agents(remote: Remote, model: LocalModel, runs: int, *, warm: bool) -> Sequence[Figure]:
    """What a run of the real agent takes, against the SDK alone, in turns. `warm`: agents are made ready beforehand."""
    first_events, first_requests, added, alone = [], [], [], []
    with _arrivals() as arrivals:
        by_itself = 0.0
        if warm or runs > 1:
            # What the first of all reads from the disk, the others find in memory.
            await _run(remote, arrivals)
            by_itself = await _alone_seconds(model)
        for _ in range(runs):
            if warm:
                await asyncio.sleep(_PAUSE * by_itself)
            first_event, first_request, whole = await _run(remote, arrivals)
            by_itself = await _alone_seconds(model)
            first_events.append(first_event * 1e3)
            first_requests.append(first_request * 1e3)
            added.append((whole - by_itself) * 1e3)
            alone.append(by_itself * 1e3)
    kind = "warm" if warm else "cold"
    most = FIRST_REQUEST_WARM if warm else None
    return [
        Figure(f"first event, {kind}, p50", median(first_events), "ms", most=FIRST_EVENT),
        Figure(f"first model request, {kind}, p50", median(first_requests), "ms", most=most),
        Figure(
            f"added to a run of the SDK alone, {kind}, p50", median(added), "ms", note=f"alone {median(alone):,.0f} ms"
        ),
    ]


async def gateway(remote: Remote, model: LocalModel, calls: int) -> Sequence[Figure]:
    """The time to the first byte of a streamed answer, through the gateway less direct, in turns.

    Once with every call reserved and counted on disk, as in a run, and once by itself. The gateway is in the server's
    process, the model and whoever calls it in this one.
    """
    counted, allowed = (await remote.order("gateway"))["sessions"]
    added: dict[str, list[float]] = {"counted": [], "allowed": []}
    direct: list[float] = []
    async with aiohttp.ClientSession() as client:
        for _ in range(calls):
            for name, (base_url, token) in {"counted": counted, "allowed": allowed}.items():
                direct.append(await _first_byte(client, model.base_url, "local-model"))
                added[name].append(await _first_byte(client, base_url, token) - direct[-1])
    note = f"direct {median(direct) * 1e3:.2f} ms"
    return [
        Figure("gateway, added to the first byte, p50", median(added["counted"]) * 1e3, "ms", most=GATEWAY, note=note),
        Figure("… of that without the ledger and the log", median(added["allowed"]) * 1e3, "ms"),
    ]


@contextmanager
def _arrivals() -> Iterator[list[float]]:
    """When the local model gets its calls, by `time.monotonic`."""
    arrivals: list[float] = []
    opened = Ledger.open

    def noting(ledger: Ledger, endpoint: str, request_id: str) -> Call:
        if endpoint == "messages":
            arrivals.append(time.monotonic())
        return opened(ledger, endpoint, request_id)

    with mock.patch.object(Ledger, "open", noting):
        yield arrivals


async def _run(remote: Remote, arrivals: list[float]) -> tuple[float, float, float]:
    """Seconds from the call to the first event, to the first request to the model, and to the end."""
    arrivals.clear()
    async with remote.channels(1) as (channel,):
        await channel.channel_ready()
        begun = time.monotonic()
        stream = remote.execute(channel, PROMPT)
        first = 0.0
        async for _ in stream:
            first = first or time.monotonic()
        return first - begun, arrivals[0] - begun, time.monotonic() - begun


async def _alone_seconds(model: LocalModel) -> float:
    with TemporaryDirectory(prefix="benchmarks-") as home:
        environment: Mapping[str, str] = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "TMPDIR": home,
            "CLAUDE_CONFIG_DIR": str(Path(home) / "config"),
            "ANTHROPIC_BASE_URL": model.base_url,
            "ANTHROPIC_API_KEY": "local-model",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }
        command = (sys.executable, "-m", "benchmarks.executions.alone", MODEL, "1")
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        answer, _ = await process.communicate()
        assert process.returncode == 0
        seconds: list[float] = json.loads(answer)
        return seconds[0]


async def _first_byte(client: aiohttp.ClientSession, base_url: str, key: str) -> float:
    headers: Mapping[str, Any] = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    begun = time.perf_counter()
    async with client.post(f"{base_url}/v1/messages", json=_BODY, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        await answer.content.readany()
        seconds = time.perf_counter() - begun
        await answer.read()
    return seconds
