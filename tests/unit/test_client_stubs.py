"""The generated stubs of the Python client: what goes out, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import Any

import grpc
import grpc_testing  # type: ignore[import-untyped]
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cloutagent.v1 import (
    execution_pb2,
    execution_pb2_grpc,
    project_pb2,
    project_pb2_grpc,
    secret_pb2,
    secret_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

ID = "6d0f2c1e-0000-4000-8000-000000000000"
DEADLINE_SECONDS = 10.0
STUBS: dict[str, Callable[[grpc.Channel], Any]] = {
    "ProjectService": project_pb2_grpc.ProjectServiceStub,
    "SecretService": secret_pb2_grpc.SecretServiceStub,
    "ExecutionService": execution_pb2_grpc.ExecutionServiceStub,
    "SystemService": system_pb2_grpc.SystemServiceStub,
}
SERVICES: list[ServiceDescriptor] = [
    service
    for module in (project_pb2, secret_pb2, execution_pb2, system_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]


@dataclass(frozen=True)
class Wire:
    """A channel whose other end is the test, and a thread for the calls, which block."""

    channel: Any
    threads: ThreadPoolExecutor

    def stub(self, service: ServiceDescriptor) -> Any:
        """The stub of a service on this channel."""
        return STUBS[service.name](self.channel)

    def call(self, method: MethodDescriptor, request: Message, **options: Any) -> Future[Any]:
        """Call a unary method."""
        return self.threads.submit(getattr(self.stub(method.containing_service), method.name), request, **options)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with ThreadPoolExecutor(max_workers=1) as threads:
        yield Wire(grpc_testing.channel(SERVICES, grpc_testing.strict_real_time()), threads)


def method_named(full_name: str) -> MethodDescriptor:
    return next(method for method in METHODS if method.full_name == f"cloutagent.v1.{full_name}")


def some_request(method: MethodDescriptor) -> Message:
    """A request that differs from an empty one wherever it has a field to tell by."""
    request = GetMessageClass(method.input_type)()
    for name in ("project_id", "execution_id", "name", "prompt"):
        if name in method.input_type.fields_by_name:
            setattr(request, name, f"some {name}")
    return request


UNARY = [method for method in METHODS if not method.server_streaming]
STREAMS = [method for method in METHODS if method.server_streaming]


@pytest.mark.parametrize("method", UNARY, ids=lambda method: method.full_name)
def test_a_unary_call_goes_to_its_method_and_brings_the_answer(wire: Wire, method: MethodDescriptor) -> None:
    request = some_request(method)
    answer = GetMessageClass(method.output_type)()
    call = wire.call(method, request, metadata=(("x-api-key", "k"),), timeout=DEADLINE_SECONDS)
    metadata, sent, rpc = wire.channel.take_unary_unary(method)
    assert sent == request
    assert ("x-api-key", "k") in metadata
    rpc.send_initial_metadata(())
    rpc.terminate(answer, (), grpc.StatusCode.OK, "")
    assert call.result(DEADLINE_SECONDS) == answer


@pytest.mark.parametrize("method", STREAMS, ids=lambda method: method.full_name)
def test_a_stream_goes_to_its_method_and_brings_every_answer(wire: Wire, method: MethodDescriptor) -> None:
    request = some_request(method)
    answers = [GetMessageClass(method.output_type)() for _ in range(3)]
    call = wire.threads.submit(
        lambda: list(getattr(wire.stub(method.containing_service), method.name)(request, timeout=DEADLINE_SECONDS))
    )
    _, sent, rpc = wire.channel.take_unary_stream(method)
    assert sent == request
    rpc.send_initial_metadata(())
    for answer in answers:
        rpc.send_response(answer)
    rpc.terminate((), grpc.StatusCode.OK, "")
    assert call.result(DEADLINE_SECONDS) == answers


def test_an_answer_keeps_its_fields(wire: Wire) -> None:
    method = method_named("ProjectService.CreateProject")
    request = project_pb2.CreateProjectRequest(name="p", agent=project_pb2.AgentConfig(temperature=0.0))
    answer = project_pb2.CreateProjectResponse(project=project_pb2.Project(id=ID, name="p"), api_key="cla_x")
    call = wire.call(method, request)
    _, sent, rpc = wire.channel.take_unary_unary(method)
    assert sent.agent.HasField("temperature")
    rpc.terminate(answer, (), grpc.StatusCode.OK, "")
    assert call.result(DEADLINE_SECONDS) == answer


def test_an_error_comes_back_with_its_status_and_details(wire: Wire) -> None:
    method = method_named("ProjectService.GetProject")
    call = wire.call(method, project_pb2.GetProjectRequest(project_id=ID))
    _, _, rpc = wire.channel.take_unary_unary(method)
    trailer = ("grpc-status-details-bin", b"packed")
    rpc.terminate(None, (trailer,), grpc.StatusCode.NOT_FOUND, "the project does not exist")
    error: Any = call.exception(DEADLINE_SECONDS)
    assert isinstance(error, grpc.RpcError)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "the project does not exist")
    trailing: Any = error.trailing_metadata()
    assert trailer in tuple(trailing)


def test_an_error_in_a_stream_comes_after_what_was_sent(wire: Wire) -> None:
    method = method_named("ExecutionService.WatchExecution")
    seen: list[Message] = []
    read = Event()

    def watch() -> None:
        stub = wire.stub(method.containing_service)
        for answer in stub.WatchExecution(execution_pb2.WatchExecutionRequest(execution_id=ID, after_sequence=4)):
            seen.append(answer)
            read.set()

    answer = execution_pb2.WatchExecutionResponse(events=[execution_pb2.ExecutionEvent(sequence=5)])
    call = wire.threads.submit(watch)
    _, sent, rpc = wire.channel.take_unary_stream(method)
    assert sent.after_sequence == 4
    rpc.send_initial_metadata(())
    rpc.send_response(answer)
    assert read.wait(DEADLINE_SECONDS)
    rpc.terminate((), grpc.StatusCode.OUT_OF_RANGE, "the cursor lies outside")
    error: Any = call.exception(DEADLINE_SECONDS)
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE
    assert seen == [answer]


def test_every_service_has_a_stub() -> None:
    assert {service.name for service in SERVICES} == set(STUBS)
    assert len(UNARY) + len(STREAMS) == len(METHODS) >= 25
