"""Sending to watchers: one that does not read is dropped with what it needs to go on, and delays nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cloutagent.v1 import execution_pb2, execution_pb2_grpc
from cloutagent_server.domain.events import Payload, StoredEvent
from cloutagent_server.domain.execution import Status
from cloutagent_server.domain.project import Project
from cloutagent_server.service.watch import WatchService
from cloutagent_server.storage.base import ExecutionStorage
from cloutagent_server.transport import interceptors
from cloutagent_server.transport.sending import sending
from cloutagent_server.transport.server import GrpcServer
from tests.support import builders
from tests.support import fake_engine as fake
from tests.support.fake_engine import FakeEngine
from tests.support.service_world import DEADLINE_SECONDS, World, make_world

ADMIN_KEY = "an-admin-key-of-some-length"
EVENTS = 600


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def world(engine: FakeEngine) -> World:
    return make_world(engine=engine, admin_key=ADMIN_KEY)


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a call has ended with the status that dropped watchers get, as the server's log has it."""
    seen = asyncio.Event()

    class Log:
        """Takes the lines of calls."""

        def info(self, _: str, *, code: str, **__: object) -> None:
            """Note one."""
            if code == grpc.StatusCode.UNAVAILABLE.name:
                seen.set()

    monkeypatch.setattr(interceptors, "log", Log())
    return seen


@asynccontextmanager
async def serving(world: World, stall_seconds: float) -> AsyncIterator[Any]:
    server = GrpcServer(world.services, stall_seconds=stall_seconds)
    port = await server.start("127.0.0.1", 0)
    # What one caller may have under way is bounded, as it is by Envoy.
    options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield execution_pb2_grpc.ExecutionServiceStub(channel)
    finally:
        await world.executions.stop(grace=0)
        await server.stop(grace=0)
        world.authenticator.close()


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    async with serving(world, stall_seconds=0.5) as stub:
        yield stub


class NotedWatches(WatchService):
    """Notes after which event each watcher was last given more."""

    def __init__(self, storage: ExecutionStorage) -> None:
        super().__init__(storage)
        self.given: list[list[int]] = []

    async def watch(self, execution_id: str, after_sequence: int) -> AsyncGenerator[Sequence[StoredEvent], None]:
        last = [after_sequence]
        self.given.append(last)
        async with aclosing(super().watch(execution_id, after_sequence)) as batches:
            async for batch in batches:
                last[:] = [event.sequence for event in batch[-1:]] or last
                yield batch


async def long_log(world: World, project: Project) -> str:
    """An execution that has ended, with a log that no buffer on the way takes whole."""
    execution = await world.storage.executions.create(builders.execution(project.id))
    texts = [builders.text_delta("x" * 50_000)] * EVENTS
    payloads: list[Payload] = [builders.queued(), builders.started(), *texts, builders.completed()]
    await world.storage.executions.append(builders.events(execution.id, payloads))
    return execution.id


async def to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("text", [False, True], ids=["WatchExecution", "StreamExecutionEvents"])
async def test_a_stalled_watcher_is_dropped_and_resumes_where_it_was(
    stub: Any, world: World, dropped: asyncio.Event, text: bool
) -> None:
    project = await world.project()
    execution_id = await long_log(world, project)
    options = {"metadata": (("x-api-key", ADMIN_KEY), ("accept", "application/x-ndjson"))}
    if text:
        stalled = stub.StreamExecutionEvents(
            execution_pb2.StreamExecutionEventsRequest(execution_id=execution_id), **options
        )
    else:
        stalled = stub.WatchExecution(execution_pb2.WatchExecutionRequest(execution_id=execution_id), **options)
    await stalled.read()
    await asyncio.wait_for(dropped.wait(), DEADLINE_SECONDS)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(to_the_end(stalled), DEADLINE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "WATCHER_TOO_SLOW"
    last = int(info.metadata["last_sequence"])
    assert last < EVENTS

    request = execution_pb2.WatchExecutionRequest(execution_id=execution_id, after_sequence=last)
    rest = [event.sequence async for answer in stub.WatchExecution(request, **options) for event in answer.events]
    assert rest == list(range(last + 1, EVENTS + 4))


@pytest.mark.parametrize("text", [False, True], ids=["ExecuteStream", "ExecuteEventStream"])
async def test_a_run_goes_on_when_its_caller_is_dropped_for_not_reading(
    stub: Any, world: World, engine: FakeEngine, dropped: asyncio.Event, text: bool
) -> None:
    """Also where it is to end with its caller: that one has not gone, and is told how to go on."""
    project = await world.project()
    written = asyncio.Event()
    texts = [fake.write("x" * 50_000) for _ in range(EVENTS)]
    engine.script = lambda prompt: [*texts, fake.signal(written), fake.hang()]
    fields: Any = {"project_id": project.id, "prompt": "x", "on_disconnect": "cancel"}
    metadata = (("x-api-key", ADMIN_KEY), ("accept", "application/x-ndjson"))
    if text:
        stalled = stub.ExecuteEventStream(execution_pb2.ExecuteEventStreamRequest(**fields), metadata=metadata)
    else:
        stalled = stub.ExecuteStream(execution_pb2.ExecuteStreamRequest(**fields), metadata=metadata)
    await stalled.read()
    await asyncio.wait_for(written.wait(), DEADLINE_SECONDS)
    await asyncio.wait_for(dropped.wait(), DEADLINE_SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(to_the_end(stalled), DEADLINE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    [execution] = await world.storage.executions.list_unfinished()
    assert execution.status is Status.RUNNING
    for _ in range(3):
        await asyncio.sleep(0.1)
        assert (await world.read(execution.id)).status is Status.RUNNING
    await world.executions.cancel(execution.id)


async def test_a_stalled_watcher_delays_nobody(world: World) -> None:
    """It is not dropped here: the run, and who watches it too, go on beside it as long as it does not read."""
    watches = NotedWatches(world.storage.executions)
    go_on = asyncio.Event()
    texts = [fake.write("x" * 50_000)] * EVENTS
    world.engine.script = lambda _: [fake.report(100, 20), fake.wait_for(go_on), *texts, fake.answer("done")]
    project = await world.project()
    async with serving(replace(world, watches=watches), stall_seconds=10 * DEADLINE_SECONDS) as stub:
        execution = await world.start(project)
        request = execution_pb2.WatchExecutionRequest(execution_id=execution.id)
        options = {"metadata": (("x-api-key", ADMIN_KEY),)}
        stalled = stub.WatchExecution(request, **options)
        first = await stalled.read()
        reader = asyncio.create_task(sequences(stub.WatchExecution(request, **options)))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(watches.given) < 2:  # noqa: ASYNC110 - the other one comes over the wire
                await asyncio.sleep(0.01)
            go_on.set()
            ended = await world.executions.finished(execution.id)
            seen = await reader
        assert (ended.status, ended.result) == (Status.COMPLETED, "done")
        assert seen == list(range(1, ended.last_sequence + 1))
        assert watches.given[0][0] < ended.last_sequence == watches.given[1][0], "the first one is stalled"
        assert [event.sequence for event in first.events] + await sequences(stalled) == seen


async def sequences(call: Any) -> list[int]:
    """What comes until the end of the call."""
    found: list[int] = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        found += [event.sequence for event in answer.events]
    return found


async def test_a_caller_that_goes_during_a_write_has_cancelled() -> None:
    """GRPC tells of it by an error of its own; nothing around the call may take that for a fault of the server."""
    seen: list[BaseException] = []

    @asynccontextmanager
    async def around(_: object, __: object) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as fault:
            seen.append(fault)
            raise

    async def answers(_: object, __: object) -> AsyncIterator[bytes]:
        yield b"one"

    class Gone:
        """A context whose caller has gone."""

        async def write(self, _: bytes) -> None:
            """As grpc.aio does it."""
            raise grpc.aio.InternalError("failed")

    handler: Any = sending(grpc.unary_stream_rpc_method_handler(answers), around, 20.0)
    with pytest.raises(asyncio.CancelledError):
        await handler.unary_stream(b"", Gone())
    assert [type(fault) for fault in seen] == [asyncio.CancelledError]
