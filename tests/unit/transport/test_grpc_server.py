"""The whole transport over a loopback port: every rpc once, health, reflection, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from cloutagent.v1 import (
    cost_pb2,
    execution_pb2,
    execution_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    secret_pb2,
    secret_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.transport.server import GrpcServer
from tests.support.fake_prices import MODEL
from tests.support.service_world import DEADLINE_SECONDS, VERSION, World, make_world

ADMIN_KEY = "an-admin-key-of-some-length"
Failed = grpc.aio.AioRpcError


@dataclass
class Api:
    """A server and one project with its key."""

    world: World
    server: GrpcServer
    channel: grpc.aio.Channel
    port: int
    project: project_pb2.Project
    key: str

    def with_key(self, key: str | None = None) -> dict[str, Any]:
        """Options of a call with a key, the project's unless given."""
        return {"metadata": (("x-api-key", key or self.key),), "timeout": DEADLINE_SECONDS}

    @property
    def projects(self) -> Any:
        """Stub."""
        return project_pb2_grpc.ProjectServiceStub(self.channel)

    @property
    def secrets(self) -> Any:
        """Stub."""
        return secret_pb2_grpc.SecretServiceStub(self.channel)

    @property
    def executions(self) -> Any:
        """Stub."""
        return execution_pb2_grpc.ExecutionServiceStub(self.channel)

    @property
    def health(self) -> Any:
        """Stub."""
        return health_pb2_grpc.HealthStub(self.channel)

    async def started(self, prompt: str = "hello", **fields: Any) -> execution_pb2.Execution:
        """An execution, queued."""
        request = execution_pb2.StartExecutionRequest(project_id=self.project.id, prompt=prompt, **fields)
        answer = await self.executions.StartExecution(request, **self.with_key())
        execution: execution_pb2.Execution = answer.execution
        return execution


def create(name: str = "demo") -> project_pb2.CreateProjectRequest:
    agent = project_pb2.AgentConfig(name="a", system_prompt="You help.", model=MODEL)
    return project_pb2.CreateProjectRequest(name=name, agent=agent)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    world = make_world()
    server = GrpcServer(world.services)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        created = await project_pb2_grpc.ProjectServiceStub(channel).CreateProject(create())
        yield Api(world, server, channel, port, created.project, created.api_key)
    await world.executions.stop(grace=0)
    await server.stop(grace=0)
    world.authenticator.close()


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """Status and reason of a call that fails."""
    with pytest.raises(Failed) as caught:
        await (call if hasattr(call, "__await__") else call.read())
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason


# Projects.


async def test_projects(api: Api) -> None:
    stub, options, project_id = api.projects, api.with_key(), api.project.id
    got = await stub.GetProject(project_pb2.GetProjectRequest(project_id=project_id), **options)
    assert got.project == api.project
    listed = await stub.ListProjects(project_pb2.ListProjectsRequest(), **options)
    assert [summary.id for summary in listed.projects] == [project_id]
    assert not listed.HasField("next_page_token")
    update = project_pb2.UpdateProjectRequest(
        project=project_pb2.Project(id=project_id, name="new"), update_mask=FieldMask(paths=["name"])
    )
    assert (await stub.UpdateProject(update, **options)).project.name == "new"
    current = await stub.GetCurrentProject(project_pb2.GetCurrentProjectRequest(), **options)
    assert (current.project.name, current.admin) == ("new", False)
    for wanted, exists in ((project_id, True), (new_id(), False)):
        asked = project_pb2.ProjectExistsRequest(project_id=wanted)
        assert (await stub.ProjectExists(asked, **options)).exists is exists
    await stub.DeleteProject(project_pb2.DeleteProjectRequest(project_id=project_id), **options)
    assert await refused(stub.GetCurrentProject(project_pb2.GetCurrentProjectRequest(), **options)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "API_KEY_INVALID",
    )


async def test_a_list_is_paged(api: Api) -> None:
    for _ in range(2):
        await api.projects.CreateProject(create())
    request = project_pb2.ListProjectsRequest(page_size=2)
    first = await api.projects.ListProjects(request, **api.with_key())
    request.page_token = first.next_page_token
    rest = await api.projects.ListProjects(request, **api.with_key())
    assert (len(first.projects), len(rest.projects)) == (2, 1)
    assert not rest.HasField("next_page_token")


# Secrets.


async def test_secrets(api: Api) -> None:
    stub, options, project_id = api.secrets, api.with_key(), api.project.id
    await stub.SetSecret(secret_pb2.SetSecretRequest(project_id=project_id, name="A", value="hidden"), **options)
    got = await stub.GetSecret(secret_pb2.GetSecretRequest(project_id=project_id, name="A"), **options)
    assert got.value == "hidden"
    listed = await stub.ListSecrets(secret_pb2.ListSecretsRequest(project_id=project_id), **options)
    assert listed.names == ["A"]
    delete = secret_pb2.DeleteSecretRequest(project_id=project_id, name="A")
    await stub.DeleteSecret(delete, **options)
    missing = (grpc.StatusCode.NOT_FOUND, "SECRET_NOT_FOUND")
    assert await refused(stub.DeleteSecret(delete, **options)) == missing
    get = secret_pb2.GetSecretRequest(project_id=project_id, name="A")
    assert await refused(stub.GetSecret(get, **options)) == missing


async def test_what_is_sealed_for_one_project_opens_for_no_other(api: Api) -> None:
    other = await api.projects.CreateProject(create())
    seal = secret_pb2.EncryptRequest(project_id=api.project.id, plaintext="hidden")
    sealed = (await api.secrets.Encrypt(seal, **api.with_key())).ciphertext
    assert json.loads(sealed).keys() == {"iv", "authTag", "encrypted"}
    own = secret_pb2.DecryptRequest(project_id=api.project.id, ciphertext=sealed)
    assert (await api.secrets.Decrypt(own, **api.with_key())).plaintext == "hidden"
    foreign = secret_pb2.DecryptRequest(project_id=other.project.id, ciphertext=sealed)
    assert await refused(api.secrets.Decrypt(foreign, **api.with_key(other.api_key))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )


# Executions.


async def test_execute(api: Api) -> None:
    request = execution_pb2.ExecuteRequest(project_id=api.project.id, prompt="hello")
    result = await api.executions.Execute(request, **api.with_key())
    assert (result.result, result.cost.prompt_tokens, result.cost.completion_tokens) == ("echo: hello", 100, 20)
    assert result.status == execution_pb2.Execution.Status.completed


async def test_executions(api: Api) -> None:
    stub, options = api.executions, api.with_key()
    started = await api.started("hang", idempotency_key="key")
    assert (await api.started("hang", idempotency_key="key")).id == started.id
    get = execution_pb2.GetExecutionRequest(execution_id=started.id)
    assert (await stub.GetExecution(get, **options)).execution.id == started.id
    listing = execution_pb2.ListExecutionsRequest(project_id=api.project.id, page_size=1)
    listed = await stub.ListExecutions(listing, **options)
    assert [one.id for one in listed.executions] == [started.id]
    delete = execution_pb2.DeleteExecutionRequest(execution_id=started.id)
    assert await refused(stub.DeleteExecution(delete, **options)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "EXECUTION_NOT_FINISHED",
    )
    cancel = execution_pb2.CancelExecutionRequest(execution_id=started.id)
    cancelled = (await stub.CancelExecution(cancel, **options)).execution
    assert cancelled.status == execution_pb2.Execution.Status.cancelled
    await stub.DeleteExecution(delete, **options)
    assert await refused(stub.GetExecution(get, **options)) == (grpc.StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND")


async def test_cost(api: Api) -> None:
    stub, options = api.executions, api.with_key()
    run = execution_pb2.ExecuteRequest(project_id=api.project.id, prompt="hello")
    execution_id = (await stub.Execute(run, **options)).id
    own = await stub.GetExecutionCost(execution_pb2.GetExecutionCostRequest(execution_id=execution_id), **options)
    assert own.current_cost == pytest.approx(0.0006)
    assert own.limit_check.percent_of_token_limit == pytest.approx(0.12)
    given = execution_pb2.GetExecutionCostRequest(execution_id=execution_id, limits=cost_pb2.CostLimits(max_tokens=60))
    check = (await stub.GetExecutionCost(given, **options)).limit_check
    assert check == cost_pb2.LimitCheckResult(
        percent_of_token_limit=200, exceeded=cost_pb2.LimitCheckResult.Exceeded.tokens
    )
    estimate = execution_pb2.EstimateCostRequest(project_id=api.project.id, prompt_tokens=1_000_000)
    assert (await stub.EstimateCost(estimate, **options)).estimated_cost == 3
    models = await stub.ListModels(execution_pb2.ListModelsRequest(), **options)
    assert MODEL in [model.id for model in models.models]


async def test_execute_stream_and_watch_show_the_same(api: Api) -> None:
    stub, options = api.executions, api.with_key()
    request = execution_pb2.ExecuteStreamRequest(project_id=api.project.id, prompt="tool")
    live = [event async for answer in stub.ExecuteStream(request, **options) for event in answer.events]
    assert live[-1].kind == "completed"
    assert [event.sequence for event in live] == list(range(1, len(live) + 1))
    watch = execution_pb2.WatchExecutionRequest(execution_id=live[0].execution_id)
    assert [event async for answer in stub.WatchExecution(watch, **options) for event in answer.events] == live
    watch.after_sequence = 5
    assert [event async for answer in stub.WatchExecution(watch, **options) for event in answer.events] == live[5:]
    watch.after_sequence = len(live) + 1
    assert await refused(stub.WatchExecution(watch, **options)) == (
        grpc.StatusCode.OUT_OF_RANGE,
        "CURSOR_OUT_OF_RANGE",
    )


async def test_a_watch_beats_while_nothing_happens() -> None:
    world = make_world(heartbeat_seconds=0.01)
    server = GrpcServer(world.services)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        created = await project_pb2_grpc.ProjectServiceStub(channel).CreateProject(create())
        stub: Any = execution_pb2_grpc.ExecutionServiceStub(channel)
        request = execution_pb2.ExecuteStreamRequest(project_id=created.project.id, prompt="hang")
        metadata = (("x-api-key", created.api_key),)
        call = stub.ExecuteStream(request, metadata=metadata, timeout=DEADLINE_SECONDS)
        last = 0
        async for answer in call:
            [event] = answer.events[-1:]
            if event.kind == "heartbeat" and last >= 3:
                assert event.sequence == last
                break
            last = event.sequence
        call.cancel()
    await world.executions.stop(grace=0)
    await server.stop(grace=0)
    world.authenticator.close()


async def test_text_streams(api: Api) -> None:
    stub = api.executions
    options = api.with_key()
    options["metadata"] += (("accept", "application/x-ndjson"),)
    request = execution_pb2.ExecuteEventStreamRequest(project_id=api.project.id, prompt="hello")
    data = b"".join([body.data async for body in stub.ExecuteEventStream(request, **options)])
    live = [json.loads(line) for line in data.splitlines()]
    assert [event["sequence"] for event in live] == list(range(1, len(live) + 1))

    async def again(last_event_id: str | None = None, **fields: Any) -> list[int]:
        metadata = options["metadata"] + ((("last-event-id", last_event_id),) if last_event_id else ())
        asked = execution_pb2.StreamExecutionEventsRequest(execution_id=live[0]["executionId"], **fields)
        call = stub.StreamExecutionEvents(asked, metadata=metadata, timeout=DEADLINE_SECONDS)
        data = b"".join([body.data async for body in call])
        return [json.loads(line)["sequence"] for line in data.splitlines()]

    everything = [event["sequence"] for event in live]
    assert await again() == everything
    assert await again(from_event=1) == everything
    assert await again(from_event=4) == everything[3:]
    assert await again("5") == everything[5:]
    assert await again("5", from_event=2) == everything[5:]


async def test_a_run_goes_on_when_its_caller_leaves(api: Api) -> None:
    request = execution_pb2.ExecuteStreamRequest(project_id=api.project.id, prompt="hang")
    call = api.executions.ExecuteStream(request, **api.with_key())
    first = await call.read()
    call.cancel()
    execution_id = first.events[0].execution_id
    running = await api.world.until(execution_id, lambda stored: stored.usage.total_tokens > 0)
    assert not running.status.terminal
    await api.world.executions.cancel(execution_id)


# The guard.


async def test_what_is_refused_and_how(api: Api) -> None:
    other = await api.projects.CreateProject(create("other"))
    get = project_pb2.GetProjectRequest(project_id=api.project.id)
    stub = api.projects
    assert await refused(stub.GetProject(get)) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING")
    wrong = api.with_key("wrong")
    assert await refused(stub.GetProject(get, **wrong)) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID")
    foreign = api.with_key(other.api_key)
    assert await refused(stub.GetProject(get, **foreign)) == (grpc.StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
    missing = project_pb2.GetProjectRequest(project_id=new_id())
    assert await refused(stub.GetProject(missing, **foreign)) == (grpc.StatusCode.NOT_FOUND, "PROJECT_NOT_FOUND")
    faulty = execution_pb2.ExecuteRequest(project_id=api.project.id)
    assert await refused(api.executions.Execute(faulty, **api.with_key())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )


async def test_many_faults_come_through_in_one_answer(api: Api) -> None:
    """A status that does not fit into the trailers would arrive as another error altogether."""
    names = [f"{number}{'ü' * 500}" for number in range(200)]
    variables = execution_pb2.ExecutionOptions(variables=dict.fromkeys(names, "v"))
    request = execution_pb2.ExecuteRequest(project_id=api.project.id, prompt="p", options=variables)
    assert await refused(api.executions.Execute(request, **api.with_key())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    prompt = "".join(f"{{{{unknown_{number}}}}}" for number in range(5000))
    request = execution_pb2.ExecuteRequest(project_id=api.project.id, prompt=prompt)
    assert await refused(api.executions.Execute(request, **api.with_key())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )


async def test_with_an_admin_key_only_the_admin_creates_projects() -> None:
    world = make_world(admin_key=ADMIN_KEY)
    server = GrpcServer(world.services)
    port = await server.start("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = project_pb2_grpc.ProjectServiceStub(channel)
        admin = (("x-api-key", ADMIN_KEY),)
        assert await refused(stub.CreateProject(create())) == (grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING")
        created = await stub.CreateProject(create(), metadata=admin)
        own = (("x-api-key", created.api_key),)
        assert await refused(stub.CreateProject(create(), metadata=own)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ACCESS_DENIED",
        )
        current = await stub.GetCurrentProject(project_pb2.GetCurrentProjectRequest(), metadata=admin)
        assert current.admin and not current.HasField("project")
        update = project_pb2.UpdateProjectRequest(project=project_pb2.Project(id=created.project.id, name="n"))
        assert (await stub.UpdateProject(update, metadata=admin)).project.name == "n"
    await server.stop(grace=0)
    world.authenticator.close()


# The server.


async def test_health(api: Api) -> None:
    stub: Any = system_pb2_grpc.SystemServiceStub(api.channel)
    answer = await stub.GetHealth(system_pb2.GetHealthRequest())
    assert (answer.status, answer.version) == ("ok", VERSION)
    check = health_pb2.HealthCheckRequest()
    assert (await api.health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
    await api.server.leave_rotation()
    assert (await api.health.Check(check)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await stub.GetHealth(system_pb2.GetHealthRequest())).status == "ok"


async def test_reflection_lists_the_services(api: Api) -> None:
    channel: Any = api.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    call = stub.ServerReflectionInfo(iter([asked]), timeout=DEADLINE_SECONDS)
    answer = await call.read()
    assert {service.name for service in answer.list_services_response.service} == {
        "cloutagent.v1.ProjectService",
        "cloutagent.v1.SecretService",
        "cloutagent.v1.ExecutionService",
        "cloutagent.v1.SystemService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_a_server_listens_on_an_address_of_ipv6() -> None:
    world = make_world()
    server = GrpcServer(world.services)
    try:
        port = await server.start("::1", 0)
        async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
            stub: Any = system_pb2_grpc.SystemServiceStub(channel)
            assert (await stub.GetHealth(system_pb2.GetHealthRequest(), timeout=DEADLINE_SECONDS)).version == VERSION
    finally:
        await server.stop(grace=0)


async def test_a_port_that_is_taken_is_an_os_error() -> None:
    world = make_world()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = GrpcServer(world.services)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            await server.start("127.0.0.1", port)
        await server.stop(grace=0)


async def test_a_request_that_is_too_large_is_refused(api: Api) -> None:
    request = secret_pb2.SetSecretRequest(project_id=api.project.id, name="A", value="x" * (5 * 1024 * 1024))
    with pytest.raises(Failed) as caught:
        await api.secrets.SetSecret(request, **api.with_key())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_stop_gives_calls_under_way_their_grace(api: Api) -> None:
    started = await api.started("hang")
    await api.world.until(started.id, lambda stored: stored.usage.total_tokens > 0)
    cancel = execution_pb2.CancelExecutionRequest(execution_id=started.id)
    call = asyncio.ensure_future(api.executions.CancelExecution(cancel, **api.with_key()))
    await api.world.until(started.id, lambda stored: stored.status.terminal)
    await api.server.stop(grace=DEADLINE_SECONDS)
    assert (await call).execution.id == started.id


async def test_a_socket_is_the_users_alone_and_taken_while_its_server_lives(tmp_path: Path) -> None:
    world = make_world()
    path = tmp_path / "server.sock"
    # What a killed server leaves is no obstacle.
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = GrpcServer(world.services)
    assert await server.start(f"unix:{path}", 0) == 0
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        second = GrpcServer(world.services)
        with pytest.raises(OSError, match="another server does"):
            await second.start(f"unix:{path}", 0)
        await second.stop(grace=0)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert (await system_pb2_grpc.SystemServiceStub(channel).GetHealth(system_pb2.GetHealthRequest())).version
    finally:
        await server.stop(grace=0)
