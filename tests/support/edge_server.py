"""A gRPC server of test doubles to stand behind a real Envoy, so that tests see what Envoy alone does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.api import httpbody_pb2
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from cloutagent.v1 import execution_pb2, project_pb2, system_pb2
from cloutagent_server.envoy_process import EnvoyProcess

PROJECTS = "cloutagent.v1.ProjectService"
EXECUTIONS = "cloutagent.v1.ExecutionService"
SYSTEM = "cloutagent.v1.SystemService"

# The origins whose pages may ask through the Envoy that tests share.
PAGE = "https://app.example"
LOCAL_PAGE = "http://localhost:5173"

Context = grpc.aio.ServicerContext[Any, Any]


def rich_status(code: int, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status with details."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@dataclass
class EdgeServer:
    """Answers as the request asks, by the ids and names in it, and remembers what arrived.

    Attributes:
        port: The port it listens on.
        requests: The requests in the order of their arrival.
        metadata: The metadata of each request.
        gate: What the waiting calls wait for.
        waiting: Set when a call waits for the gate.
        chunks: Chunks produced by endless streams, by execution id.
    """

    port: int = 0
    requests: list[Message] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    chunks: Counter[str] = field(default_factory=Counter)

    def forget(self) -> None:
        """Be as new: nothing has arrived. What still waits for the gate is let through."""
        self.gate.set()
        self.gate, self.waiting = asyncio.Event(), asyncio.Event()
        self.requests.clear()
        self.metadata.clear()
        self.chunks.clear()

    def _remember(self, request: Message, context: Context) -> None:
        self.requests.append(request)
        self.metadata.append({key: str(value) for key, value in context.invocation_metadata() or ()})

    async def _wait(self) -> None:
        self.waiting.set()
        await self.gate.wait()

    async def create_project(self, request: Any, context: Context) -> Message:
        """201; the name `taken` is refused after the initial metadata went out, `odd` asks for status 299."""
        self._remember(request, context)
        await context.send_initial_metadata((("x-http-code", "299" if request.name == "odd" else "201"),))
        if request.name == "taken":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "the name is taken")
        return project_pb2.CreateProjectResponse(project=project_pb2.Project(id="p1", name=request.name), api_key="k")

    async def get_project(self, request: Any, context: Context) -> Message:
        """The project; `code-N` ends so, `missing` and `faulty` with details; `wait` waits for the gate."""
        self._remember(request, context)
        if request.project_id == "wait":
            await self._wait()
        if request.project_id == "missing":
            info = error_details_pb2.ErrorInfo(reason="PROJECT_NOT_FOUND", domain="cloutagent")
            info.metadata["project_id"] = "missing"
            await context.abort_with_status(
                rpc_status.to_status(rich_status(code_pb2.NOT_FOUND, "no such project", info))
            )
        if request.project_id == "faulty":
            violation = error_details_pb2.BadRequest.FieldViolation(field="agent.model", description="unknown model")
            detail = error_details_pb2.BadRequest(field_violations=[violation])
            status = rich_status(code_pb2.INVALID_ARGUMENT, "agent.model: unknown model", detail)
            await context.abort_with_status(rpc_status.to_status(status))
        if request.project_id.startswith("code-"):
            number = int(request.project_id.removeprefix("code-"))
            await context.abort(next(code for code in grpc.StatusCode if code.value[0] == number), "as asked")
        return project_pb2.GetProjectResponse(project=project_pb2.Project(id=request.project_id))

    async def list_projects(self, request: Any, context: Context) -> Message:
        """No projects."""
        self._remember(request, context)
        return project_pb2.ListProjectsResponse()

    async def update_project(self, request: Any, context: Context) -> Message:
        """The project as it came."""
        self._remember(request, context)
        return project_pb2.UpdateProjectResponse(project=request.project)

    async def delete_project(self, request: Any, context: Context) -> Message:
        """204."""
        self._remember(request, context)
        await context.send_initial_metadata((("x-http-code", "204"),))
        return project_pb2.DeleteProjectResponse()

    async def execute(self, request: Any, context: Context) -> Message:
        """The prompt's length; the prompt `wait` waits for the gate first."""
        self._remember(request, context)
        if request.prompt == "wait":
            await self._wait()
        return execution_pb2.ExecutionResult(id="e1", result=str(len(request.prompt)))

    async def get_execution(self, request: Any, context: Context) -> Message:
        """An execution with a prompt of 1 MiB."""
        self._remember(request, context)
        return execution_pb2.GetExecutionResponse(execution=execution_pb2.Execution(prompt="x" * 1_048_576))

    async def watch_execution(self, request: Any, context: Context) -> AsyncIterator[Message]:
        """Three events; after them `missing` ends with a status that has details."""
        self._remember(request, context)
        for sequence in (1, 2, 3):
            yield execution_pb2.WatchExecutionResponse(events=[execution_pb2.ExecutionEvent(sequence=sequence)])
        if request.execution_id == "missing":
            info = error_details_pb2.ErrorInfo(reason="EXECUTION_NOT_FOUND", domain="cloutagent")
            await context.abort_with_status(rpc_status.to_status(rich_status(code_pb2.NOT_FOUND, "it is gone", info)))

    async def stream_events(self, request: Any, context: Context) -> AsyncIterator[Message]:
        """One event, the gate, another event; `missing` ends with NOT_FOUND at once, `endless-…` never ends."""
        self._remember(request, context)
        if request.execution_id == "missing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such execution")
        yield httpbody_pb2.HttpBody(content_type="text/event-stream", data=b": open\n\n")
        while request.execution_id.startswith("endless-"):
            self.chunks[request.execution_id] += 1
            yield httpbody_pb2.HttpBody(data=b"data: " + b"x" * 32_000 + b"\n\n")
        await self._wait()
        yield httpbody_pb2.HttpBody(data=b"id: 1\nevent: queued\ndata: {}\n\n")

    async def get_health(self, request: Any, context: Context) -> Message:
        """It is up."""
        return system_pb2.GetHealthResponse(status="ok", version="1")

    def _handlers(self) -> list[grpc.GenericRpcHandler]:
        methods: dict[str, dict[str, tuple[Callable[..., Any], type[Message]]]] = {
            PROJECTS: {
                "CreateProject": (self.create_project, project_pb2.CreateProjectRequest),
                "GetProject": (self.get_project, project_pb2.GetProjectRequest),
                "ListProjects": (self.list_projects, project_pb2.ListProjectsRequest),
                "UpdateProject": (self.update_project, project_pb2.UpdateProjectRequest),
                "DeleteProject": (self.delete_project, project_pb2.DeleteProjectRequest),
            },
            EXECUTIONS: {
                "Execute": (self.execute, execution_pb2.ExecuteRequest),
                "GetExecution": (self.get_execution, execution_pb2.GetExecutionRequest),
                "WatchExecution": (self.watch_execution, execution_pb2.WatchExecutionRequest),
                "StreamExecutionEvents": (self.stream_events, execution_pb2.StreamExecutionEventsRequest),
            },
            SYSTEM: {"GetHealth": (self.get_health, system_pb2.GetHealthRequest)},
        }
        streaming = ("WatchExecution", "StreamExecutionEvents")
        return [
            grpc.method_handlers_generic_handler(
                service,
                {
                    name: (
                        grpc.unary_stream_rpc_method_handler
                        if name in streaming
                        else grpc.unary_unary_rpc_method_handler
                    )(handler, request.FromString, lambda answer: answer.SerializeToString())
                    for name, (handler, request) in handlers.items()
                },
            )
            for service, handlers in methods.items()
        ]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[EdgeServer]:
        """Listen on a free port of the loopback interface, with health and reflection."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16_777_216)])
        server.add_generic_rpc_handlers(self._handlers())
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        reflection.enable_server_reflection((PROJECTS, EXECUTIONS, SYSTEM, reflection.SERVICE_NAME), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield self
        finally:
            self.gate.set()
            await server.stop(0)


def assert_error(response: httpx.Response, status: int, code: int, reason: str | None = None) -> dict[str, Any]:
    """The answer is an error in the API's shape; returns it. With a `reason` it names that and its request."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    error: dict[str, Any] = response.json()
    assert set(error) == {"code", "message", "details"}
    assert (error["code"], type(error["details"])) == (code, list)
    assert error["message"]
    if reason is not None:
        info, request = error["details"][:2]
        assert (info["reason"], request["requestId"]) == (reason, response.headers["x-request-id"])
    return error


@asynccontextmanager
async def running_envoy(upstream_port: int, run_dir: Path, **options: Any) -> AsyncIterator[EnvoyProcess]:
    """An Envoy on a free port in front of the server on this port; `options` are those of EnvoyProcess."""
    envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", upstream_port, run_dir, **options)
    await envoy.start()
    try:
        yield envoy
    finally:
        await envoy.stop()
