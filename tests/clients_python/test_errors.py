"""Errors of the client: each answer of the server has its class, and carries what the server said."""

from __future__ import annotations

import asyncio
import pickle
import socket
from typing import Any

import grpc
import pytest

from cloutagent import AsyncClient, BudgetExceededError, errors
from cloutagent._failures import BY_CODE, failure_of
from cloutagent.errors import ApiError, CloutAgentError
from cloutagent.types import Budget, BudgetLimit, Execution, NewProject
from cloutagent.v1.error_reason_pb2 import ErrorReason
from cloutagent_server.domain import errors as domain
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.transport.errors import entry_for, retry_seconds, to_status
from tests.clients_python.conftest import agent
from tests.support.fake_engine import FakeEngine, ask, fail, hang, report
from tests.support.python_client.two_clients import Kind, make_client
from tests.support.server_errors import EXAMPLES

NOBODY = "6d0f2c1e-0000-4000-8000-000000000000"

# What each reason is to callers.
CLASSES: dict[str, type[ApiError]] = {
    "INVALID_REQUEST": errors.InvalidArgumentError,
    "API_KEY_MISSING": errors.AuthenticationError,
    "API_KEY_INVALID": errors.AuthenticationError,
    "ACCESS_DENIED": errors.PermissionDeniedError,
    "PROJECT_NOT_FOUND": errors.NotFoundError,
    "EXECUTION_NOT_FOUND": errors.NotFoundError,
    "SECRET_NOT_FOUND": errors.NotFoundError,
    "REVISION_CONFLICT": errors.ConflictError,
    "IDEMPOTENCY_KEY_REUSED": errors.AlreadyExistsError,
    "EXECUTION_NOT_FINISHED": errors.FailedPreconditionError,
    "QUEUE_FULL": errors.QueueFullError,
    "CURSOR_OUT_OF_RANGE": errors.OutOfRangeError,
    "STORED_DATA_DAMAGED": errors.DataLossError,
    "SERVER_UNAVAILABLE": errors.UnavailableError,
    "INTERNAL_ERROR": errors.InternalError,
    "API_KEY_NOT_FOUND": errors.NotFoundError,
    "LAST_API_KEY": errors.FailedPreconditionError,
    "API_KEY_LIMIT_REACHED": errors.FailedPreconditionError,
    "AUTHENTICATION_RATE_LIMITED": errors.RateLimitedError,
    "RATE_LIMITED": errors.RateLimitedError,
    "SECRET_VERSION_NOT_FOUND": errors.NotFoundError,
    "SECRET_VERSION_CONFLICT": errors.ConflictError,
    "SECRET_LIMIT_REACHED": errors.FailedPreconditionError,
    "WATCHER_TOO_SLOW": errors.UnavailableError,
    "BUDGET_EXCEEDED": errors.BudgetUsedUpError,
}


class Failure:
    """An error of gRPC."""

    def __init__(self, code: grpc.StatusCode, details: str | None = "", metadata: Any = None) -> None:
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


def answered(error: Exception) -> ApiError:
    """What the client makes of the server's answer to an error."""
    status = to_status(error, "the-request")
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    packed = (("x-other", "1"), ("grpc-status-details-bin", status.SerializeToString()))
    return failure_of(Failure(code, status.message, packed), "sent")


def test_every_reason_and_every_code_has_a_class() -> None:
    assert set(CLASSES) == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert set(BY_CODE) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_of_the_server_arrives_as_its_class(error: domain.CloutAgentError) -> None:
    entry = entry_for(error)
    reason = ErrorReason.Name(entry.reason)
    caught = answered(error)
    assert type(caught) is CLASSES[reason]
    assert (caught.code, caught.reason, caught.request_id) == (entry.code.name, reason, "the-request")
    assert (caught.message, caught.metadata) == (str(error), dict(error.metadata))
    assert caught.retry_delay == retry_seconds(error)


def test_a_fault_of_the_server_arrives_without_its_details() -> None:
    caught = answered(RuntimeError("a path of the server"))
    assert type(caught) is CLASSES["INTERNAL_ERROR"]
    assert "path" not in str(caught) and caught.request_id == "the-request"


def test_an_error_that_the_server_did_not_make_has_no_reason() -> None:
    error = failure_of(Failure(grpc.StatusCode.UNAVAILABLE, None, None), "sent")
    assert type(error) is errors.UnavailableError
    assert (error.reason, error.request_id, error.retry_delay, error.metadata) == (None, "sent", None, {})


def test_details_that_make_no_sense_leave_the_code_and_the_message() -> None:
    error = failure_of(Failure(grpc.StatusCode.NOT_FOUND, "gone", [("grpc-status-details-bin", b"\xff\xff")]), "sent")
    assert type(error) is errors.NotFoundError and error.message == "gone"


def test_errors_carry_their_numbers() -> None:
    cursor = answered(domain.CursorOutOfRange(40, 90))
    assert isinstance(cursor, errors.OutOfRangeError)
    assert (cursor.first_sequence, cursor.last_sequence) == (40, 90)
    queue = answered(domain.QueueFull(3, "project"))
    assert isinstance(queue, errors.ResourceExhaustedError)
    assert (queue.retry_delay, queue.metadata) == (5.0, {"limit": "3", "scope": "project"})


@pytest.mark.parametrize(
    "error",
    [
        ApiError("m", code="NOT_FOUND", reason="R", metadata={"execution_id": "e"}, request_id="r", retry_delay=1.5),
        errors.DeadlineExceededError("m", code="DEADLINE_EXCEEDED"),
        errors.LimitExceededError("m", execution=Execution(id="e"), failure_reason="limit_exceeded"),
        errors.ExecutionCancelledError("m", execution=Execution(id="e")),
        errors.ConfigurationError("m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_sent_to_another_process(error: CloutAgentError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and vars(again) == vars(error) and str(again) == str(error)


async def test_violations_are_named(client: AsyncClient, admin: AsyncClient) -> None:
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await admin.projects.create(name="", agent=agent(temperature=2))
    assert {violation.field for violation in caught.value.violations} == {"name", "agent.temperature"}
    assert caught.value.reason == "INVALID_REQUEST" and caught.value.request_id


async def test_wrong_keys_and_missing_things(kind: Kind, address: str, client: AsyncClient, admin: AsyncClient) -> None:
    with pytest.raises(errors.NotFoundError) as missing:
        await client.executions.get(NOBODY)
    assert (missing.value.reason, missing.value.execution_id) == ("EXECUTION_NOT_FOUND", NOBODY)
    other = await admin.projects.create(name="other", agent=agent())
    with pytest.raises(errors.PermissionDeniedError):
        await client.projects.get(other.project.id)
    wrong_key = f"cla_{NOBODY}"
    for key in (None, wrong_key):
        async with make_client(kind, address=address, api_key=key) as stranger:
            with pytest.raises(errors.AuthenticationError) as refused:
                await stranger.projects.current()
            assert wrong_key not in f"{refused.value} {refused.value!r} {vars(refused.value)}"
            assert refused.value.__context__ is None


async def test_conflicts(client: AsyncClient) -> None:
    await client.secrets.set("TOKEN", "one")
    with pytest.raises(errors.ConflictError) as caught:
        await client.secrets.set("TOKEN", "two", expected_version=7)
    assert caught.value.metadata == {"name": "TOKEN", "version": "1"}
    first = await client.executions.start("hello", idempotency_key="k")
    with pytest.raises(errors.AlreadyExistsError) as reused:
        await client.executions.start("bye", idempotency_key="k")
    assert reused.value.execution_id == first.id


async def test_the_admin_must_name_a_project(admin: AsyncClient) -> None:
    with pytest.raises(errors.ConfigurationError, match="project_id"):
        await admin.executions.start("hello")


async def test_a_deadline_that_passes(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with make_client(kind, address=address, timeout=0.2) as client:
            with pytest.raises(errors.DeadlineExceededError) as caught:
                await client.system.health()
    assert issubclass(caught.type, TimeoutError)
    assert caught.value.request_id is not None


async def test_a_client_that_is_closed_takes_no_calls(kind: Kind, address: str) -> None:
    client = make_client(kind, address=address)
    assert (await client.system.health()).status == "ok"
    await client.close()
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.system.health()


async def test_closing_a_client_ends_what_is_under_way(
    kind: Kind, address: str, project: NewProject, client: AsyncClient, engine: FakeEngine
) -> None:
    closing = make_client(kind, address=address, api_key=project.api_key)
    execution = await closing.executions.start("hang")
    started = asyncio.Event()

    async def follow() -> None:
        async for event in closing.executions.watch(execution.id):
            if event.kind == "token_usage":
                started.set()

    following = asyncio.ensure_future(follow())
    await started.wait()
    await closing.close()
    with pytest.raises(RuntimeError, match="closed"):
        await following
    assert execution.id in engine.running
    await client.executions.cancel(execution.id)


async def test_a_run_returns_its_result(client: AsyncClient) -> None:
    ended = await client.executions.run("hello", labels={"a": "b"}, timeout=20)
    assert (ended.status, ended.result, ended.labels["a"]) == (Execution.Status.completed, "echo: hello", "b")
    assert ended.usage.model_calls == 1


async def test_a_run_that_was_run_before_returns_the_same(client: AsyncClient) -> None:
    first = await client.executions.run("hello", idempotency_key="once")
    assert await client.executions.run("hello", idempotency_key="once") == first


async def test_the_time_of_a_run_is_not_that_of_its_start(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with make_client(kind, address=address, project_id=NOBODY, timeout=0.2) as client:
            with pytest.raises(errors.DeadlineExceededError) as caught:
                await client.executions.run("hello", timeout=600)
    assert caught.value.execution_id is None, "nothing is known to have been started"


async def test_a_run_that_fails_raises(client: AsyncClient, engine: FakeEngine) -> None:
    with pytest.raises(errors.ExecutionFailedError, match="overloaded") as failed:
        await client.executions.run("fail")
    assert failed.value.failure_reason == "model_error"
    assert failed.value.execution is not None and failed.value.execution.usage.model_calls == 1
    assert failed.value.execution_id == failed.value.execution.id
    engine.script = lambda prompt: [ask(), report(1, 1), fail(FailureReason.TIMEOUT, "too long")]
    with pytest.raises(errors.ExecutionTimedOutError, match="too long"):
        await client.executions.run("hello")


async def test_a_run_that_a_limit_ends_says_which(client: AsyncClient, engine: FakeEngine) -> None:
    engine.script = lambda prompt: [ask(), report(100, 20), ask(input_tokens=500), hang()]
    with pytest.raises(BudgetExceededError) as caught:
        await client.executions.run("hello", max_tokens=300)
    error = caught.value
    assert isinstance(error, errors.LimitExceededError)
    assert (error.scope, error.exceeded, error.limit, error.used, error.left) == ("execution", "tokens", 300, 120, 180)
    assert error.execution is not None and error.failure_reason == "limit_exceeded"


async def test_a_start_that_no_budget_is_left_for_says_which(
    client: AsyncClient, project: NewProject, engine: FakeEngine
) -> None:
    await client.projects.update(budget=Budget(total=BudgetLimit(max_tokens=120)))
    await client.executions.run("hello")
    with pytest.raises(BudgetExceededError) as caught:
        await client.executions.run("hello")
    error = caught.value
    assert isinstance(error, errors.BudgetUsedUpError)
    assert (error.scope, error.exceeded, error.limit, error.used, error.left) == ("total", "tokens", 120, 120, 0)


async def test_a_run_that_is_cancelled_raises(client: AsyncClient, engine: FakeEngine) -> None:
    with pytest.raises(errors.DeadlineExceededError) as waiting:
        await client.executions.run("hang", idempotency_key="k", timeout=1)
    assert waiting.value.execution_id is not None
    assert waiting.value.execution_id in engine.running, "whoever stops waiting ends nothing"
    await client.executions.cancel(waiting.value.execution_id)
    with pytest.raises(errors.ExecutionCancelledError) as cancelled:
        await client.executions.run("hang", idempotency_key="k")
    assert cancelled.value.execution_id == waiting.value.execution_id
