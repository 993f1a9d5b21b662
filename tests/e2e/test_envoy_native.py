"""Native gRPC through Envoy, on the same port as REST. The server is a double."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2

from cloutagent.v1 import execution_pb2, execution_pb2_grpc, project_pb2, project_pb2_grpc
from cloutagent_server.envoy_process import EnvoyProcess

pytestmark = pytest.mark.e2e

DEADLINE = 10.0


@pytest_asyncio.fixture(loop_scope="session")
async def channel(envoy: EnvoyProcess) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as opened:
        yield opened


def assert_has_details(error: grpc.aio.AioRpcError, reason: str) -> None:
    """The error carries a google.rpc.Status with this reason."""
    (details,) = (value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    assert isinstance(details, bytes)
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.reason == reason


async def test_native_calls_and_their_status_details(channel: grpc.aio.Channel) -> None:
    projects = project_pb2_grpc.ProjectServiceStub(channel)
    answer = await projects.GetProject(project_pb2.GetProjectRequest(project_id="p1"), timeout=DEADLINE)
    assert answer.project.id == "p1"
    created = await projects.CreateProject(project_pb2.CreateProjectRequest(name="n"), timeout=DEADLINE)
    assert created.api_key == "k"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await projects.GetProject(project_pb2.GetProjectRequest(project_id="missing"), timeout=DEADLINE)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such project")
    assert_has_details(raised.value, "PROJECT_NOT_FOUND")


async def test_native_streams_and_their_status_details(channel: grpc.aio.Channel) -> None:
    executions = execution_pb2_grpc.ExecutionServiceStub(channel)
    call = executions.WatchExecution(execution_pb2.WatchExecutionRequest(execution_id="e1"), timeout=DEADLINE)
    assert [event.sequence async for answer in call for event in answer.events] == [1, 2, 3]
    call = executions.WatchExecution(execution_pb2.WatchExecutionRequest(execution_id="missing"), timeout=DEADLINE)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in call:
            pass
    assert_has_details(raised.value, "EXECUTION_NOT_FOUND")


async def test_the_size_limit_of_rest_does_not_bind_native_calls(channel: grpc.aio.Channel) -> None:
    request = execution_pb2.ExecuteRequest(project_id="p1", prompt="x" * 3_000_000)
    result = await execution_pb2_grpc.ExecutionServiceStub(channel).Execute(request, timeout=DEADLINE)
    assert result.result == "3000000"


async def test_a_native_request_that_no_server_takes_is_refused_in_words(channel: grpc.aio.Channel) -> None:
    request = execution_pb2.ExecuteRequest(project_id="p1", prompt="x" * 5_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await execution_pb2_grpc.ExecutionServiceStub(channel).Execute(request, timeout=DEADLINE)
    assert raised.value.details() == "the request is larger than 4 MiB"


async def test_an_unknown_native_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    for path in ("/cloutagent.v1.ProjectService/Nothing", "/nothing.v1.Nothing/Nothing"):
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", timeout=DEADLINE)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_checks_pass(channel: grpc.aio.Channel) -> None:
    check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
    answer = health_pb2.HealthCheckResponse.FromString(await check(b"", timeout=DEADLINE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_buf_curl_calls_by_reflection(envoy: EnvoyProcess) -> None:
    url = f"http://127.0.0.1:{envoy.port}/cloutagent.v1.ProjectService/GetProject"
    buf = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).parent / "buf"), "curl", "--reflect", "--protocol", "grpc"),
        *("--http2-prior-knowledge", "--data", '{"projectId": "p1"}', url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(buf.communicate(), 30)
    assert json.loads(stdout) == {"project": {"id": "p1"}}, stderr


async def test_without_the_server_a_native_call_is_unavailable(cut_off: EnvoyProcess) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{cut_off.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await project_pb2_grpc.ProjectServiceStub(channel).GetProject(project_pb2.GetProjectRequest())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    # The message is text, not the JSON of a REST answer.
    assert raised.value.details() == "the server cannot be reached now"
