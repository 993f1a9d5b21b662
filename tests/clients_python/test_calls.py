"""What goes over the wire with a call, and how often it is made: seen from a server that fails on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cloutagent import AsyncClient, Client, errors
from cloutagent.types import Project, UsageReport
from cloutagent.v1.execution_pb2 import StartExecutionRequest, WatchUsageResponse
from cloutagent.v1.project_pb2 import GetCurrentProjectResponse
from tests.clients_python.conftest import QUICK, agent
from tests.support.certificates import Authority
from tests.support.edge_server import rich_status
from tests.support.python_client.two_clients import Kind, make_client

PROJECT = "6d0f2c1e-0000-4000-8000-000000000000"


@dataclass
class Call:
    """A call that came: its method, its request, the seconds that it had (gRPC rounds them), whence and when."""

    method: str
    request: bytes
    metadata: dict[str, str]
    seconds: float
    peer: str
    at: float = field(default_factory=monotonic)


@dataclass
class FailingServer(grpc.GenericRpcHandler):
    """Answers every unary call: with the failures that the test gives, one each, then with an empty message.

    Attributes:
        failures: What comes next.
        calls: What came.
        answer: The message that is answered.
    """

    failures: list[status_pb2.Status] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    answer: bytes = b""

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method."""
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(request: bytes, context: Any) -> bytes:
            metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
            self.calls.append(Call(method, request, metadata, context.time_remaining(), context.peer()))
            if self.failures:
                await context.abort_with_status(rpc_status.to_status(self.failures.pop(0)))
            return self.answer

        return grpc.unary_unary_rpc_method_handler(answer)

    @property
    def methods(self) -> list[str]:
        """Names of the methods that were called."""
        return [call.method for call in self.calls]


def failure(code: grpc.StatusCode, reason: str | None = None, retry_seconds: float | None = None) -> status_pb2.Status:
    """A status. Without a reason it comes from the way to the server."""
    details: list[Any] = []
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain="cloutagent"))
    if retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(retry_seconds * 1e9))
        details.append(retry)
    return rich_status(code.value[0], "as asked", *details)


UNAVAILABLE = failure(grpc.StatusCode.UNAVAILABLE)
QUEUE_FULL = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_seconds=0.02)


@pytest_asyncio.fixture(loop_scope="session")
async def server() -> AsyncIterator[tuple[FailingServer, int]]:
    """The server and its port."""
    handler, listening = FailingServer(), grpc.aio.server()
    listening.add_generic_rpc_handlers((handler,))
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    yield handler, port
    await listening.stop(0)


@pytest.fixture
def failing(server: tuple[FailingServer, int]) -> FailingServer:
    """The server."""
    return server[0]


@pytest_asyncio.fixture(loop_scope="session")
async def caller(kind: Kind, server: tuple[FailingServer, int]) -> AsyncIterator[AsyncClient]:
    """A client of the server."""
    address = f"http://127.0.0.1:{server[1]}"
    async with make_client(kind, address=address, api_key="cla_key", project_id=PROJECT, retry=QUICK) as client:
        yield client


async def test_a_call_has_its_key_its_id_its_deadline_and_says_who_makes_it(
    caller: AsyncClient, failing: FailingServer
) -> None:
    await caller.system.health()
    await caller.system.health(timeout=7)
    default, given = failing.calls
    assert default.metadata["x-api-key"] == "cla_key"
    assert default.metadata["user-agent"].startswith(f"cloutagent-python/{version('cloutagent')} ")
    assert default.metadata["x-request-id"] != given.metadata["x-request-id"]
    assert 25 < default.seconds < 31 and 5 < given.seconds < 8


async def test_a_read_is_made_again_under_one_id(caller: AsyncClient, failing: FailingServer) -> None:
    failing.failures = [UNAVAILABLE, failure(grpc.StatusCode.INTERNAL), UNAVAILABLE]
    await caller.projects.get()
    assert failing.methods == ["GetProject"] * 4
    assert len({call.metadata["x-request-id"] for call in failing.calls}) == 1


async def test_retries_are_logged_without_the_key(
    caller: AsyncClient, failing: FailingServer, caplog: pytest.LogCaptureFixture
) -> None:
    failing.failures = [UNAVAILABLE]
    with caplog.at_level("DEBUG"):
        await caller.projects.get()
    assert "as asked" in caplog.text and "cla_key" not in caplog.text


async def test_threads_share_a_client(server: tuple[FailingServer, int]) -> None:
    with Client(address=f"127.0.0.1:{server[1]}") as client:
        await asyncio.gather(*(asyncio.to_thread(client.system.health) for _ in range(40)))
    assert len(server[0].calls) == 40
    assert len({call.peer for call in server[0].calls}) == 1


async def test_the_last_failure_is_raised(caller: AsyncClient, failing: FailingServer) -> None:
    failing.failures = [UNAVAILABLE] * 6
    with pytest.raises(errors.UnavailableError) as caught:
        await caller.projects.get()
    assert failing.methods == ["GetProject"] * 6
    assert caught.value.request_id == failing.calls[0].metadata["x-request-id"]


async def test_a_start_is_made_again_with_its_idempotency_key(caller: AsyncClient, failing: FailingServer) -> None:
    failing.failures = [UNAVAILABLE, QUEUE_FULL]
    await caller.executions.start("hello")
    await caller.executions.start("hello", idempotency_key="mine")
    keys = [StartExecutionRequest.FromString(call.request).idempotency_key for call in failing.calls]
    assert keys[0] and keys == [keys[0]] * 3 + ["mine"]


async def test_a_start_that_failed_can_be_repeated_with_its_key(caller: AsyncClient, failing: FailingServer) -> None:
    failing.failures = [failure(grpc.StatusCode.DEADLINE_EXCEEDED)]
    with pytest.raises(errors.DeadlineExceededError) as caught:
        await caller.executions.run("hello")
    await caller.executions.start("hello", idempotency_key=caught.value.idempotency_key)
    keys = [StartExecutionRequest.FromString(call.request).idempotency_key for call in failing.calls]
    assert keys[0] and keys == [keys[0]] * 2 == [caught.value.idempotency_key] * 2


async def test_a_start_has_one_deadline_with_the_question_for_its_project(
    kind: Kind, server: tuple[FailingServer, int]
) -> None:
    failing, port = server
    # As a start's answer it is an execution.
    failing.answer = GetCurrentProjectResponse(project=Project(id=PROJECT)).SerializeToString()
    failing.failures = [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_seconds=0.4)]
    async with make_client(kind, address=f"127.0.0.1:{port}", retry=QUICK) as client:
        await client.executions.start("hello", timeout=0.9)
    assert failing.methods == ["GetCurrentProject"] * 2 + ["StartExecution"]
    assert failing.calls[-1].seconds < 0.6


async def test_closing_a_client_ends_its_pauses(
    kind: Kind, server: tuple[FailingServer, int], caplog: pytest.LogCaptureFixture
) -> None:
    failing, port = server
    failing.failures = [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_seconds=60)]
    async with make_client(kind, address=f"127.0.0.1:{port}", timeout=600) as client, asyncio.timeout(20):
        with caplog.at_level("DEBUG", logger="cloutagent"):
            waiting = asyncio.ensure_future(client.system.health())
            while "trying again" not in caplog.text:  # noqa: ASYNC110 - it may be said in a thread
                await asyncio.sleep(0.01)
            await client.close()
            with pytest.raises(RuntimeError, match="closed"):
                await waiting


async def test_a_watch_that_is_closed_before_it_is_connected_ends(
    kind: Kind, server: tuple[FailingServer, int], caplog: pytest.LogCaptureFixture
) -> None:
    failing, port = server
    # One message that is an answer to both calls.
    current = GetCurrentProjectResponse(project=Project(id=PROJECT))
    failing.answer = current.SerializeToString() + WatchUsageResponse(report=UsageReport()).SerializeToString()
    failing.failures = [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_seconds=0.3)]
    async with make_client(kind, address=f"127.0.0.1:{port}") as client, asyncio.timeout(20):
        watch = client.usage.watch()

        async def reports() -> list[UsageReport]:
            return [report async for report in watch]

        with caplog.at_level("DEBUG", logger="cloutagent"):
            following = asyncio.ensure_future(reports())
            while "trying again" not in caplog.text:  # noqa: ASYNC110 - it may be said in a thread
                await asyncio.sleep(0.01)
        await watch.close()
        assert await following == []


async def test_a_dry_run_takes_no_key(caller: AsyncClient, failing: FailingServer) -> None:
    await caller.executions.estimate("hello", idempotency_key="mine")
    request = StartExecutionRequest.FromString(failing.calls[0].request)
    assert request.validate_only and not request.HasField("idempotency_key") and not request.HasField("options")


async def test_other_writes_are_made_once(caller: AsyncClient, failing: FailingServer) -> None:
    writes = (
        lambda: caller.projects.create(name="p", agent=agent()),
        lambda: caller.projects.update(name="p"),
        lambda: caller.projects.delete(PROJECT),
        lambda: caller.keys.create(name="ci"),
        lambda: caller.keys.rotate(),
        lambda: caller.keys.revoke(PROJECT),
        lambda: caller.secrets.set("A", "b"),
        lambda: caller.secrets.restore("A", 1),
        lambda: caller.secrets.delete("A"),
        lambda: caller.executions.delete(PROJECT),
    )
    for write in writes:
        failing.failures = [UNAVAILABLE]
        with pytest.raises(errors.UnavailableError):
            await write()
    assert len(failing.calls) == len(writes)


async def test_cancelling_may_be_repeated(caller: AsyncClient, failing: FailingServer) -> None:
    failing.failures = [UNAVAILABLE]
    await caller.executions.cancel(PROJECT)
    assert failing.methods == ["CancelExecution"] * 2
    assert failing.calls[0].seconds > 40, "the server may take 30 seconds for it"


async def test_a_pause_that_the_server_asks_for_is_kept_if_there_is_time(
    caller: AsyncClient, failing: FailingServer
) -> None:
    failing.failures = [QUEUE_FULL]
    await caller.executions.start("hello", timeout=5)
    first, second = failing.calls
    assert second.at - first.at >= 0.02
    failing.failures = [failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "AUTHENTICATION_RATE_LIMITED", retry_seconds=60)]
    with pytest.raises(errors.RateLimitedError) as caught:
        await caller.projects.get()
    assert caught.value.retry_delay == 60


async def test_what_would_not_help_is_not_tried_again(caller: AsyncClient, failing: FailingServer) -> None:
    for code, reason in (
        (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
        (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND"),
        (grpc.StatusCode.DATA_LOSS, "STORED_DATA_DAMAGED"),
        (grpc.StatusCode.UNIMPLEMENTED, None),
        (grpc.StatusCode.UNKNOWN, None),
    ):
        failing.failures = [failure(code, reason)]
        with pytest.raises(errors.ApiError):
            await caller.projects.get()
    assert len(failing.calls) == 5


async def test_an_answer_that_cannot_be_read_is_an_error(caller: AsyncClient, failing: FailingServer) -> None:
    failing.answer = b"\xff\xff"
    with pytest.raises(errors.InternalError) as unary:
        await caller.projects.create(name="p", agent=agent())
    with pytest.raises(errors.InternalError) as streamed:
        await anext(caller.executions.watch(PROJECT))
    assert unary.value.code == streamed.value.code == "INTERNAL" and unary.value.request_id
    assert failing.methods == ["CreateProject"] + ["WatchExecution"] * 6


async def test_tls_with_an_authority_of_ones_own(kind: Kind, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certificate, private_key = authority.issue()
    handler, listening = FailingServer(), grpc.aio.server()
    listening.add_generic_rpc_handlers((handler,))
    port = listening.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private_key, certificate)]))
    await listening.start()
    address = f"https://127.0.0.1:{port}"
    try:
        async with make_client(kind, address=address, api_key="cla_key", ca_file=tmp_path / "ca.pem") as client:
            await client.system.health()
        async with make_client(kind, address=address, api_key="cla_key", retry=QUICK) as distrustful:
            with pytest.raises(errors.UnavailableError):
                await distrustful.system.health()
    finally:
        await listening.stop(0)
    assert [call.metadata["x-api-key"] for call in handler.calls] == ["cla_key"]
