"""What only native gRPC has: health, reflection, unknown methods; directly and through Envoy's port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.api.stage import GRPC, GRPC_ENVOY, Stage

pytestmark = pytest.mark.depths(GRPC, GRPC_ENVOY)


@pytest_asyncio.fixture(loop_scope="session")
async def channel(stage: Stage) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel."""
    assert stage.address is not None
    async with grpc.aio.insecure_channel(stage.address) as channel:
        yield channel


async def test_health_is_served(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_tells_the_services(channel: grpc.aio.Channel) -> None:
    untyped: Any = channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(untyped)
    call = stub.ServerReflectionInfo(timeout=10)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()
    names = {service.name for service in answer.list_services_response.service}
    services = {f"cloutagent.v1.{name}Service" for name in ("Project", "Secret", "Execution", "System")}
    assert services | {"grpc.health.v1.Health"} <= names


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/cloutagent.v1.ProjectService/Nothing", "/cloutagent.v1.Nothing/Get"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _call(channel, path, b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_cannot_be_read_is_an_error_of_the_call_alone(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _call(channel, "/cloutagent.v1.ProjectService/CreateProject", b"\xff\xff")
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "the request cannot be read: perhaps some text in it is not UTF-8"
    assert await _call(channel, "/cloutagent.v1.SystemService/GetHealth", b"")


async def _call(channel: Any, path: str, request: bytes) -> bytes:
    answer: bytes = await channel.unary_unary(path)(request, timeout=10)
    return answer
