"""A caller whose deadline passes has left: `onDisconnect` says what becomes of its run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from cloutagent.v1 import execution_pb2, execution_pb2_grpc
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.transport.server import GrpcServer
from tests.support import fake_engine as fake
from tests.support.service_world import DEADLINE_SECONDS, World, make_world

ADMIN_KEY = "an-admin-key-of-some-length"
PASSES_SECONDS = 1.5
CALLS = {
    "Execute": execution_pb2.ExecuteRequest,
    "ExecuteStream": execution_pb2.ExecuteStreamRequest,
    "ExecuteEventStream": execution_pb2.ExecuteEventStreamRequest,
}


@pytest.fixture
def world() -> World:
    return make_world(admin_key=ADMIN_KEY)


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    server = GrpcServer(world.services)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield execution_pb2_grpc.ExecutionServiceStub(channel)
    await world.executions.stop(grace=0)
    await server.stop(grace=0)
    world.authenticator.close()


async def left_at_its_deadline(stub: Any, world: World, rpc: str, on_disconnect: str) -> Execution:
    """The run of a caller whose deadline has passed, when the server has let the caller go."""
    project = await world.project()
    leaves = execution_pb2.ExecutionOptions.OnDisconnect.Value(on_disconnect)
    request = CALLS[rpc](project_id=project.id, prompt="p", on_disconnect=leaves)
    with capture_logs() as lines:
        call = getattr(stub, rpc)(request, metadata=(("x-api-key", ADMIN_KEY),), timeout=PASSES_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call if rpc == "Execute" else [answer async for answer in call]
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not any(line["event"] == "call" for line in lines):  # noqa: ASYNC110 - it is the server's turn
                await asyncio.sleep(0.01)
    (execution,) = (await world.executions.list(project.id, 10, None)).items
    return execution


@pytest.mark.parametrize("rpc", CALLS)
async def test_a_run_goes_on_after_the_deadline_of_its_caller(stub: Any, world: World, rpc: str) -> None:
    go_on = asyncio.Event()
    world.engine.script = lambda _: [fake.ask(), fake.report(100, 20), fake.wait_for(go_on), fake.answer("done")]
    execution = await left_at_its_deadline(stub, world, rpc, "continue")
    assert (execution.status, execution.usage.model_calls) == (Status.RUNNING, 1)
    go_on.set()
    ended = await world.until(execution.id, Status.COMPLETED)
    assert ended.result == "done"


@pytest.mark.parametrize("rpc", CALLS)
async def test_the_deadline_of_its_caller_cancels_a_run_if_asked_to(stub: Any, world: World, rpc: str) -> None:
    world.engine.script = lambda _: [fake.ask(), fake.report(100, 20), fake.hang()]
    execution = await left_at_its_deadline(stub, world, rpc, "cancel")
    ended = await world.until(execution.id, Status.CANCELLED)
    assert (ended.usage.prompt_tokens, ended.usage.completion_tokens) == (100, 20)
    assert (await world.kinds(ended.id))[-1] == "cancelled"
    assert world.engine.running == []
