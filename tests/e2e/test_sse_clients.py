"""Well-known clients of server-sent events behind the real Envoy: they follow a run, resume it, and stop at its end."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.transport.server import GrpcServer
from tests.support.cutting_proxy import CuttingProxy
from tests.support.edge_server import running_envoy
from tests.support.fake_engine import FakeEngine, Step, answer, ask, hang, message, report, wait_for, write
from tests.support.service_world import DEADLINE_SECONDS, World, make_world
from tests.support.sse_clients import Client, Told, eventsource, fetch_event_source, httpx_sse, node

pytestmark = pytest.mark.e2e

ADMIN_KEY = "an-admin-key-of-some-length"
CLIENTS: Sequence[Client] = (eventsource, fetch_event_source, httpx_sse)
# What the script below makes: queued, started, token_usage, two text_delta, message, token_usage at the end, completed.
FIRST_TEXT = 4

Gates = Mapping[str, asyncio.Event]


@pytest.fixture
def gates() -> Gates:
    """What runs wait for between their two texts, by prompt."""
    return defaultdict(asyncio.Event)


@pytest.fixture
async def world(gates: Gates) -> AsyncIterator[World]:
    """Runs that write, wait and write. Heartbeats come often, so that clients have comments to pass over."""

    def script(prompt: str) -> Sequence[Step]:
        if prompt == "hang":
            return [ask(), report(100, 20), hang()]
        texts = [write("é 1"), wait_for(gates[prompt]), write("日 2\n\n"), message("both")]
        return [ask(), report(100, 20), *texts, answer("done")]

    world = make_world(engine=FakeEngine(script), admin_key=ADMIN_KEY, heartbeat_seconds=0.05)
    yield world
    await world.executions.stop(0)
    world.authenticator.close()


@pytest.fixture
async def port(world: World, tmp_path: Path) -> AsyncIterator[int]:
    """Where Envoy listens."""
    server = GrpcServer(world.services)
    async with running_envoy(await server.start("127.0.0.1", 0), tmp_path) as envoy:
        yield envoy.port
    await server.stop(grace=0)


def stream_of(execution: Execution, port: int) -> str:
    return f"http://127.0.0.1:{port}/api/v1/executions/{execution.id}/stream"


async def told_by(following: AsyncGenerator[Told, None], gate: asyncio.Event) -> list[Told]:
    """All that a client tells. The run goes on as soon as the first text has come."""
    told = []
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(following):
        async for one in following:
            told.append(one)
            if one.get("event") == "text_delta":
                gate.set()
    return told


async def told_by_all(runs: Sequence[Execution], ports: Sequence[int], gates: Gates) -> Sequence[list[Told]]:
    """What each client tells of a run of its own, all at the same time."""
    return await asyncio.gather(
        *(
            told_by(client(stream_of(execution, port), ADMIN_KEY), gates[execution.prompt])
            for client, execution, port in zip(CLIENTS, runs, ports, strict=True)
        )
    )


async def started(world: World) -> Sequence[Execution]:
    """A run for each client, whose prompt is the client's name."""
    project = await world.project()
    return [await world.start(project, client.__name__) for client in CLIENTS]


async def is_whole(told: Sequence[Told], execution: Execution, world: World) -> None:
    """The events that a client got are those of the log, each once and in order."""
    stored = await world.storage.executions.read_events(execution.id, 0, 1_000)
    assert stored[-1].kind == "completed"
    got = [(one["id"], one["event"], one["data"]) for one in told if "id" in one]
    assert got == [(str(event.sequence), event.kind, event.data.decode()) for event in stored]


def besides(told: Sequence[Told]) -> Sequence[Told]:
    """What a client tells but for the events."""
    return [one for one in told if "id" not in one]


async def test_clients_follow_a_run_to_its_end_and_stop(world: World, port: int, gates: Gates) -> None:
    runs = await started(world)
    for client, told, execution in zip(CLIENTS, await told_by_all(runs, [port] * 3, gates), runs, strict=True):
        await is_whole(told, execution, world)
        # Those that connect again after every end are told to stop; the other one takes the end for the end.
        stop = [{"stopped": None}] if client is fetch_event_source else [{"lost": True}, {"stopped": 204}]
        assert besides(told) == [{"open": True}, *stop]


@pytest.mark.parametrize(
    ("after", "resumes"),
    [
        # Inside of a frame, where its event is not told yet.
        (b"event: text_delta\ndata: {", FIRST_TEXT - 1),
        # Between two frames, the run going on.
        (b"id: %d\n\n" % FIRST_TEXT, FIRST_TEXT),
    ],
    ids=["inside", "between"],
)
async def test_clients_resume_a_stream_that_was_cut(
    after: bytes, resumes: int, world: World, port: int, gates: Gates
) -> None:
    runs = await started(world)
    async with AsyncExitStack() as entered:
        proxies = [await entered.enter_async_context(CuttingProxy(port, after).serve()) for _ in runs]
        all_told = await told_by_all(runs, [proxy.port for proxy in proxies], gates)
    for told, execution, proxy in zip(all_told, runs, proxies, strict=True):
        await is_whole(told, execution, world)
        assert besides(told)[:3] == [{"open": True}, {"lost": True}, {"open": True}]
        assert b"\r\nlast-event-id: %d\r\n" % resumes in proxy.requests[1].lower()


async def test_clients_whose_stream_was_cut_behind_the_last_event_stop(world: World, port: int, gates: Gates) -> None:
    for client in CLIENTS:
        gates[client.__name__].set()
    runs = [await world.until(execution.id, Status.COMPLETED) for execution in await started(world)]
    last = runs[0].last_sequence
    async with AsyncExitStack() as entered:
        cut = b"id: %d\n\n" % last
        proxies = [await entered.enter_async_context(CuttingProxy(port, cut).serve()) for _ in runs]
        all_told = await told_by_all(runs, [proxy.port for proxy in proxies], gates)
    for told, execution, proxy in zip(all_told, runs, proxies, strict=True):
        await is_whole(told, execution, world)
        assert besides(told) == [{"open": True}, {"lost": True}, {"stopped": 204}]
        assert b"\r\nlast-event-id: %d\r\n" % last in proxy.requests[1].lower()


async def test_an_error_inside_a_stream_comes_as_an_event_before_the_end(world: World, port: int) -> None:
    async def follow(client: Client, execution: Execution) -> list[Told]:
        told = []
        url = stream_of(execution, port)
        async with asyncio.timeout(DEADLINE_SECONDS), aclosing(client(url, ADMIN_KEY)) as following:
            async for one in following:
                told.append(one)
                if one.get("event") == "token_usage":
                    await world.storage.executions.delete(execution.id)
        return told

    project = await world.project()
    runs = [await world.start(project, "hang") for _ in CLIENTS]
    for client, told in zip(CLIENTS, await asyncio.gather(*map(follow, CLIENTS, runs)), strict=True):
        opened, error, *stop = besides(told)
        assert (opened, error["event"]) == ({"open": True}, "error")
        assert json.loads(error["data"])["details"][0]["reason"] == "EXECUTION_NOT_FOUND"
        # Whoever tries again learns that there is nothing any more.
        assert stop == ([{"stopped": None}] if client is fetch_event_source else [{"lost": True}, {"stopped": 404}])


async def test_a_run_that_was_started_by_its_stream_is_resumed_and_not_run_again(
    world: World, port: int, gates: Gates
) -> None:
    project = await world.project()
    path = f"/api/v1/projects/{project.id}/execute/stream"
    body = json.dumps({"prompt": "hello", "idempotencyKey": "k"})
    async with CuttingProxy(port, b"event: text_delta\ndata: {").serve() as proxy:
        url = f"http://127.0.0.1:{proxy.port}{path}"
        told = await told_by(node("fetch_event_source.js", ADMIN_KEY, url, body), gates["hello"])
    (execution_id,) = world.engine.order
    execution = await world.until(execution_id, Status.COMPLETED)
    await is_whole(told, execution, world)
    assert besides(told) == [{"open": True}, {"lost": True}, {"open": True}, {"stopped": None}]
