"""Watching through cuts, restarts and silence: each event once and in order, to the last one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloutagent import AsyncClient, Client, RetryPolicy, errors
from cloutagent.types import NewProject
from cloutagent_server.app import App
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.transport.server import GrpcServer
from tests.clients_python.conftest import ADMIN_KEY, QUICK, agent, settings_of
from tests.support.api.ports import reserved_port
from tests.support.api.stage import Stage
from tests.support.fake_engine import FakeEngine, FakeExecutor, Step, answer, ask, report, wait_for, write
from tests.support.python_client.two_clients import KINDS, Kind, make_client
from tests.support.unsteady_proxy import UnsteadyProxy, random_life

DEADLINE_SECONDS = 20.0
# More than any test takes bytes.
ETERNAL = 10**9


class Pace:
    """Lets a run write only a few events ahead of its watcher, so that every connection brings some."""

    def __init__(self, ahead: int = 4) -> None:
        self._ahead = ahead
        self._seen = 0
        self._more = asyncio.Event()

    def saw(self, sequence: int) -> None:
        """The watcher has this event."""
        self._seen = sequence
        self._more.set()

    def before(self, sequence: int) -> Step:
        """Wait until the watcher is near this event."""

        async def step(executor: FakeExecutor) -> None:
            while self._seen + self._ahead < sequence:
                self._more.clear()
                await executor.wait(self._more)

        return step

    def script(self, texts: int) -> Callable[[str], list[Step]]:
        """Writes so many texts."""
        steps = [step for n in range(texts) for step in (self.before(n), write(f"{n} "))]
        return lambda prompt: [ask(), report(1, 1), *steps, answer("done")]


async def watched(
    client: AsyncClient,
    execution_id: str,
    saw: Callable[[int], Awaitable[None] | None],
    seconds: float = DEADLINE_SECONDS,
) -> list[str]:
    """The kinds of the events of an execution, each once and in order."""
    sequences, kinds = [], []
    async with asyncio.timeout(seconds), client.executions.watch(execution_id) as events:
        async for event in events:
            sequences.append(event.sequence)
            kinds.append(event.kind)
            assert events.last_sequence == event.sequence
            waiting = saw(event.sequence)
            if waiting is not None:
                await waiting
    assert sequences == list(range(1, len(sequences) + 1))
    return kinds


@asynccontextmanager
async def behind(proxy: UnsteadyProxy, kind: Kind, project: NewProject) -> AsyncIterator[AsyncClient]:
    """A client behind the proxy."""
    retry = RetryPolicy(attempts=1000, first_delay=0.002, longest_delay=0.02)
    async with make_client(
        kind, address=f"http://127.0.0.1:{proxy.port}", api_key=project.api_key, retry=retry
    ) as client:
        yield client


async def test_a_watch_that_is_cut_a_hundred_times_misses_and_repeats_nothing(
    kind: Kind, shared_stage: Stage, client: AsyncClient, project: NewProject, engine: FakeEngine
) -> None:
    pace = Pace()
    engine.script = pace.script(400)
    execution = await client.executions.start("hello")
    # Some connections end before their first event, and most of them inside of a frame.
    life = random_life(seed=6, least=100, most=1100)
    async with (
        UnsteadyProxy(_port_of(shared_stage), life).serve() as proxy,
        behind(proxy, kind, project) as unsteady,
    ):
        kinds = await watched(unsteady, execution.id, pace.saw)
        assert proxy.cuts >= 100
    assert kinds.count("text_delta") == 400 and kinds[-1] == "completed"


async def test_a_run_over_a_bad_connection_is_run_once(
    kind: Kind, shared_stage: Stage, client: AsyncClient, project: NewProject, engine: FakeEngine
) -> None:
    runs = len(engine.order)
    life = random_life(seed=7, least=100, most=900)
    async with (
        UnsteadyProxy(_port_of(shared_stage), life).serve() as proxy,
        behind(proxy, kind, project) as unsteady,
    ):
        results = [(await unsteady.executions.run(f"say {n}")).result for n in range(5)]
        assert proxy.cuts >= 5
    assert results == [f"echo: say {n}" for n in range(5)]
    assert len(engine.order) == runs + 5
    assert len([execution.id async for execution in client.executions.list()]) == 5


class Restarted:
    """A second gRPC server before the same services, of which the proxy knows the newest."""

    def __init__(self, app: App, proxy: UnsteadyProxy) -> None:
        self._services = app.services
        self._proxy = proxy
        self._server: GrpcServer | None = None

    async def restart(self) -> None:
        """Stop, which ends all calls, and start again."""
        await self.stop()
        self._server = GrpcServer(self._services)
        self._proxy.target_port = await self._server.start("127.0.0.1", 0)

    async def stop(self) -> None:
        """Stop."""
        if self._server is not None:
            await self._server.stop(grace=0)


async def test_a_watch_outlasts_restarts_of_the_server(
    kind: Kind, shared_stage: Stage, client: AsyncClient, project: NewProject, engine: FakeEngine
) -> None:
    pace = Pace()
    engine.script = pace.script(60)
    execution = await client.executions.start("hello")
    async with UnsteadyProxy(0, lambda: ETERNAL).serve() as proxy, AsyncExitStack() as ending:
        server = Restarted(shared_stage.app, proxy)
        ending.push_async_callback(server.stop)
        await server.restart()
        unsteady = await ending.enter_async_context(behind(proxy, kind, project))

        async def saw(sequence: int) -> None:
            pace.saw(sequence)
            if sequence % 20 == 0:
                await server.restart()

        kinds = await watched(unsteady, execution.id, saw)
    assert kinds.count("text_delta") == 60 and kinds[-1] == "completed"


async def test_watches_of_what_waits_go_on_with_the_next_server(
    prices: GenaiPriceList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
    async with AsyncExitStack() as ending:
        port = ending.enter_context(reserved_port())
        settings = settings_of(tmp_path, grpc_port=port, max_concurrent_executions=1)
        first, second = (App(settings, FileSystemStorage(tmp_path), FakeEngine(), prices) for _ in range(2))
        await first.start()
        ending.push_async_callback(second.stop)
        clients = [
            await ending.enter_async_context(
                make_client(kind, address=f"127.0.0.1:{port}", api_key=ADMIN_KEY, retry=QUICK)
            )
            for kind in KINDS
        ]
        project_id = (await clients[0].projects.create(name="p", agent=agent())).project.id
        await clients[0].executions.start("hang", project_id=project_id, idempotency_key="k")
        waiting = await clients[0].executions.start("hello", project_id=project_id)
        queued = [asyncio.Event() for _ in clients]
        watching = [
            asyncio.ensure_future(watched(client, waiting.id, partial(_note, seen)))
            for client, seen in zip(clients, queued, strict=True)
        ]
        for seen in queued:
            await seen.wait()
        await first.stop()
        await second.start()
        one, other = await asyncio.gather(*watching)
        assert one == other and one[-1] == "completed"
        with pytest.raises(errors.ExecutionFailedError) as interrupted:
            await clients[0].executions.run("hang", project_id=project_id, idempotency_key="k")
        assert interrupted.value.failure_reason == "interrupted"


@pytest.mark.full
async def test_watches_of_twenty_runs_that_are_cut_a_hundred_times(
    kind: Kind, prices: GenaiPriceList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
    async with AsyncExitStack() as ending:
        engine = FakeEngine()
        app = App(settings_of(tmp_path, max_concurrent_executions=20), FileSystemStorage(tmp_path), engine, prices)
        target = await app.start()
        ending.push_async_callback(app.stop)
        # Twenty streams share a connection, and the head of each answer takes some of its bytes.
        proxy = await ending.enter_async_context(UnsteadyProxy(target, random_life(8, 500, 6_200)).serve())
        direct = await ending.enter_async_context(
            make_client("async", address=f"127.0.0.1:{target}", api_key=ADMIN_KEY)
        )
        project = await direct.projects.create(name="p", agent=agent())
        server = Restarted(app, proxy)
        ending.push_async_callback(server.stop)
        paces = {f"run {n}": Pace() for n in range(20)}
        engine.script = lambda prompt: paces[prompt].script(200)(prompt)
        unsteady = await ending.enter_async_context(behind(proxy, kind, project))
        runs = {prompt: await direct.executions.start(prompt, project_id=project.project.id) for prompt in paces}

        async def saw(pace: Pace, sequence: int) -> None:
            pace.saw(sequence)
            if pace is paces["run 0"] and sequence % 50 == 0:
                await server.restart()

        told = await asyncio.gather(
            *(watched(unsteady, runs[prompt].id, partial(saw, pace), 300) for prompt, pace in paces.items())
        )
        assert proxy.cuts >= 100
    assert all(kinds.count("text_delta") == 200 and kinds[-1] == "completed" for kinds in told)


async def test_a_connection_that_falls_silent_is_given_up(
    kind: Kind,
    shared_stage: Stage,
    client: AsyncClient,
    project: NewProject,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("_async", "_sync"):
        monkeypatch.setattr(f"cloutagent.{module}.channel.KEEPALIVE_MILLISECONDS", (100, 100))
    gate = asyncio.Event()
    engine.script = lambda prompt: [write("a"), wait_for(gate), answer("done")]
    execution = await client.executions.start("hello")
    async with (
        UnsteadyProxy(_port_of(shared_stage), lambda: ETERNAL).serve() as proxy,
        behind(proxy, kind, project) as unsteady,
    ):

        def silence(sequence: int) -> None:
            if sequence == 3:
                proxy.silence()
                gate.set()

        kinds = await watched(unsteady, execution.id, silence)
    assert kinds == ["queued", "started", "text_delta", "completed"]


async def test_a_watch_from_a_cursor_and_behind_the_end(client: AsyncClient) -> None:
    ended = await client.executions.run("hello")
    rest = [event.sequence async for event in client.executions.watch(ended.id, after_sequence=5)]
    assert rest == [6, 7]
    assert not [event async for event in client.executions.watch(ended.id, after_sequence=7)]
    with pytest.raises(errors.OutOfRangeError) as beyond:
        await anext(client.executions.watch(ended.id, after_sequence=8))
    assert (beyond.value.first_sequence, beyond.value.last_sequence) == (1, 7)


async def test_a_watch_that_is_left_is_let_go_and_the_run_goes_on(
    client: AsyncClient, shared_stage: Stage, engine: FakeEngine
) -> None:
    execution = await client.executions.start("hang")
    async with client.executions.watch(execution.id) as events:
        assert [(await anext(events)).kind for _ in range(3)] == ["queued", "started", "token_usage"]
    assert not [event async for event in events]
    assert execution.id in engine.running
    await client.executions.cancel(execution.id)


async def test_a_watch_that_is_closed_by_somebody_else_ends(client: AsyncClient) -> None:
    execution = await client.executions.start("hang")
    watch = client.executions.watch(execution.id)
    waiting = asyncio.Event()

    async def follow() -> str:
        async for event in watch:
            if event.kind == "token_usage":
                waiting.set()
        return "ended"

    following = asyncio.ensure_future(follow())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await waiting.wait()
        await watch.close()
        assert await following == "ended"
    await client.executions.cancel(execution.id)


async def test_a_watch_that_a_child_got_by_fork_says_so(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = await client.executions.start("hang")
    async with client.executions.watch(execution.id) as events:
        while (await anext(events)).kind != "token_usage":
            pass
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            async with asyncio.timeout(DEADLINE_SECONDS):
                with pytest.raises(RuntimeError, match="make one in each"):
                    await anext(events)
        await client.executions.cancel(execution.id)
        assert [event.kind async for event in events] == ["cancelled"], "its owner reads on"


async def test_a_watch_that_nobody_has_any_more_is_let_go(
    address: str, project: NewProject, client: AsyncClient, kind: Kind
) -> None:
    execution = await client.executions.start("hang")

    def left_by_a_thread() -> Any:
        with Client(address=address, api_key=project.api_key) as blocking:
            watch = blocking.executions.watch(execution.id)
            next(watch)
            call = watch._call
            del watch
            return call.cancelled()

    async def left_by_a_task() -> Any:
        async with AsyncClient(address=address, api_key=project.api_key) as asynchronous:
            watch = asynchronous.executions.watch(execution.id)
            await anext(watch)
            call = watch._call
            del watch
            return call.cancelled()

    assert await (asyncio.to_thread(left_by_a_thread) if kind == "sync" else left_by_a_task())
    await client.executions.cancel(execution.id)


async def test_a_watch_ends_at_its_deadline(client: AsyncClient) -> None:
    execution = await client.executions.start("hang")
    with pytest.raises(errors.DeadlineExceededError):
        async for _ in client.executions.watch(execution.id, timeout=0.3):
            pass
    await client.executions.cancel(execution.id)


async def test_a_server_that_is_not_there_is_told_soon(kind: Kind) -> None:
    with reserved_port() as port:
        async with make_client(kind, address=f"127.0.0.1:{port}", api_key="cla_x", retry=QUICK) as client:
            with pytest.raises(errors.UnavailableError):
                await anext(client.executions.watch("e"))
            with pytest.raises(errors.UnavailableError):
                await client.system.health()


async def test_a_read_of_the_client_for_asyncio_that_is_cancelled_loses_nothing(
    address: str, project: NewProject, engine: FakeEngine
) -> None:
    gate = asyncio.Event()
    engine.script = lambda prompt: [write("a"), wait_for(gate), answer("done")]
    async with AsyncClient(address=address, api_key=project.api_key) as client:
        execution = await client.executions.start("hello")
        async with client.executions.watch(execution.id) as events:
            kinds = [(await anext(events)).kind for _ in range(3)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.05)
            gate.set()
            kinds += [event.kind async for event in events]
    assert kinds == ["queued", "started", "text_delta", "completed"]


def _note(seen: asyncio.Event, sequence: int) -> None:
    seen.set()


def _port_of(stage: Stage) -> int:
    assert stage.address is not None
    return int(stage.address.rpartition(":")[2])
