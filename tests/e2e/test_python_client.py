"""The Python clients behind the real Envoy: they follow runs past one that is drained and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cloutagent import RetryPolicy
from cloutagent_server.domain.execution import Execution
from cloutagent_server.transport.server import GrpcServer
from tests.support.edge_server import running_envoy
from tests.support.fake_engine import FakeEngine, answer, ask, report, wait_for, write
from tests.support.python_client.two_clients import KINDS, Kind, make_client
from tests.support.service_world import DEADLINE_SECONDS, World, make_world
from tests.support.unsteady_proxy import UnsteadyProxy

pytestmark = pytest.mark.e2e

ADMIN_KEY = "an-admin-key-of-some-length"


@pytest.fixture
def gate() -> asyncio.Event:
    """What runs wait for between their two texts."""
    return asyncio.Event()


@pytest.fixture
async def world(gate: asyncio.Event) -> AsyncIterator[World]:
    """Runs that write, wait and write."""
    script = [ask(), report(100, 20), write("one"), wait_for(gate), write("two"), answer("done")]
    world = make_world(engine=FakeEngine(lambda prompt: script), admin_key=ADMIN_KEY)
    yield world
    await world.executions.stop(0)
    world.authenticator.close()


async def test_watches_outlast_an_envoy_that_is_drained(
    world: World, gate: asyncio.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloutagent_server.envoy_process._DRAIN_SECONDS", 1)
    project = await world.project()
    runs = [await world.start(project) for _ in KINDS]
    halfway = [asyncio.Event() for _ in KINDS]

    async def follow(kind: Kind, execution: Execution, reached: asyncio.Event, port: int) -> list[tuple[int, str]]:
        retry = RetryPolicy(attempts=20, first_delay=0.01, longest_delay=0.1)
        address = f"http://127.0.0.1:{port}"
        async with make_client(kind, address=address, api_key=ADMIN_KEY, retry=retry) as client:
            told = []
            async for event in client.executions.watch(execution.id):
                told.append((event.sequence, event.kind))
                if event.kind == "text_delta":
                    reached.set()
            return told

    server = GrpcServer(world.services)
    upstream = await server.start("127.0.0.1", 0)
    async with AsyncExitStack() as ending, asyncio.timeout(DEADLINE_SECONDS):
        ending.push_async_callback(server.stop, grace=0)
        envoys = []
        for name in "ab":
            (tmp_path / name).mkdir()
            envoys.append(await ending.enter_async_context(running_envoy(upstream, tmp_path / name)))
        old, new = envoys
        proxy = await ending.enter_async_context(UnsteadyProxy(old.port, lambda: 10**9).serve())
        following = [
            asyncio.ensure_future(follow(kind, execution, reached, proxy.port))
            for kind, execution, reached in zip(KINDS, runs, halfway, strict=True)
        ]
        for reached in halfway:
            await reached.wait()
        proxy.target_port = new.port
        await old.stop()
        gate.set()
        all_told = await asyncio.gather(*following)
    for told, execution in zip(all_told, runs, strict=True):
        stored = await world.storage.executions.read_events(execution.id, 0, 1_000)
        assert told == [(event.sequence, event.kind) for event in stored]
        assert told[-1][1] == "completed"
