"""`AsyncClient` and bare `grpc.aio`, in a process of their own: `python -m benchmarks.clients.concurrent`.

See `Order` for standard input. Prints what was measured as JSON: see `Measured`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

import grpc

from benchmarks.clients.order import BARE_CHANNEL, Order, read_order
from benchmarks.clients.rounds import Measured, Samples, Work, everything
from cloutagent import AsyncClient
from cloutagent.v1.execution_pb2 import GetExecutionRequest, WatchExecutionRequest
from cloutagent.v1.execution_pb2_grpc import ExecutionServiceStub
from cloutagent.v1.project_pb2 import GetProjectRequest
from cloutagent.v1.project_pb2_grpc import ProjectServiceStub

Call = Callable[[], Awaitable[object]]
CLIENT, BARE = "AsyncClient", "grpc.aio"


def _repeated(call: Call, count: int) -> Work:
    async def work() -> Samples:
        seconds = []
        for _ in range(count):
            begun = perf_counter()
            await call()
            seconds.append(perf_counter() - begun)
        return seconds

    return work


async def measure(order: Order) -> Measured:
    """Everything, in turns, one call at a time."""
    async with (
        grpc.aio.insecure_channel(order.host, BARE_CHANNEL) as channel,
        AsyncClient(address=order.address, api_key=order.api_key) as client,
    ):
        projects, executions = ProjectServiceStub(channel), ExecutionServiceStub(channel)
        project_id, execution_id, metadata = order.project_id, order.execution_id, order.metadata

        async def bare_project() -> object:
            return (await projects.GetProject(GetProjectRequest(project_id=project_id), metadata=metadata)).project

        async def bare_execution() -> object:
            request = GetExecutionRequest(execution_id=execution_id)
            return (await executions.GetExecution(request, metadata=metadata)).execution

        async def bare_events() -> None:
            last = 0
            async for answer in executions.WatchExecution(
                WatchExecutionRequest(execution_id=execution_id), metadata=metadata
            ):
                for event in answer.events:
                    last = event.sequence
            assert last == order.last

        async def events() -> None:
            last = 0
            async for event in client.executions.watch(execution_id):
                last = event.sequence
            assert last == order.last

        def by_call(ours: Call, bare: Call) -> Mapping[str, Work]:
            return {CLIENT: _repeated(ours, order.calls), BARE: _repeated(bare, order.calls)}

        calls = {
            "projects.get": by_call(lambda: client.projects.get(project_id), bare_project),
            "executions.get": by_call(lambda: client.executions.get(execution_id), bare_execution),
        }
        return await everything(order, calls, {CLIENT: _repeated(events, 1), BARE: _repeated(bare_events, 1)})


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(read_order()))))
