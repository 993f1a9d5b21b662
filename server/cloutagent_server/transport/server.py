"""The gRPC server: services, interceptors in their order, health and reflection."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import NoOpTracer, Tracer

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
from cloutagent_server.domain.metrics import NO_METRICS, Metrics
from cloutagent_server.service.attempts import FailedAttempts
from cloutagent_server.service.audit import AuditTrail
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.keys import KeyService
from cloutagent_server.service.projects import ProjectService
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import WatchService
from cloutagent_server.transport import validation
from cloutagent_server.transport.access import AccessControl, rules_of
from cloutagent_server.transport.audit import Auditing, RefusalAuditing, actions_of
from cloutagent_server.transport.execution_servicer import ExecutionServicer
from cloutagent_server.transport.interceptors import Around, ErrorAnswering, Guard, Nested, streams_of
from cloutagent_server.transport.project_servicer import ProjectServicer
from cloutagent_server.transport.secret_servicer import SecretServicer
from cloutagent_server.transport.sending import STALL_SECONDS
from cloutagent_server.transport.system_servicer import SystemServicer

FILES: Final = (project_pb2.DESCRIPTOR, secret_pb2.DESCRIPTOR, execution_pb2.DESCRIPTOR, system_pb2.DESCRIPTOR)
SERVICES: Final = tuple(service.full_name for file in FILES for service in file.services_by_name.values())
METHODS: Final = tuple(
    f"/{service.full_name}/{method.name}"
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
)
MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
# More than Envoy lets through: 60 KiB, to which gRPC adds for each header. By default gRPC refuses 16 KiB, and by
# chance what is above 8 KiB, and tells the sizes of all headers.
MAX_METADATA_BYTES: Final = 96 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class Services:
    """What the transport serves."""

    authenticator: Authenticator
    projects: ProjectService
    secrets: SecretManager
    executions: ExecutionService
    watches: WatchService
    version: str
    keys: KeyService
    failed_attempts: FailedAttempts
    audit: AuditTrail
    usage: UsageService
    receipts: ReceiptService
    metrics: Metrics = NO_METRICS
    tracer: Tracer = field(default_factory=NoOpTracer)


def arounds_for(services: Services) -> Sequence[Around]:
    """What goes around every call, outermost first. Raises MissingRule if a method has no rule."""
    access = AccessControl(services.authenticator, services.projects, services.executions, services.failed_attempts)
    actions = actions_of(FILES)
    return (
        ErrorAnswering(services.metrics, streams_of(FILES), services.tracer),
        RefusalAuditing(actions, services.audit),
        Guard(rules_of(FILES), access),
        Auditing(actions, services.audit, services.secrets),
    )


def add_servicers(services: Services, server: Any) -> None:
    """Register the API's servicers with anything that takes generic handlers as a gRPC server does."""
    project_pb2_grpc.add_ProjectServiceServicer_to_server(ProjectServicer(services.projects, services.keys), server)
    secret_pb2_grpc.add_SecretServiceServicer_to_server(SecretServicer(services.secrets), server)
    execution_pb2_grpc.add_ExecutionServiceServicer_to_server(
        ExecutionServicer(services.executions, services.watches, services.usage, services.receipts), server
    )
    system_pb2_grpc.add_SystemServiceServicer_to_server(SystemServicer(services.version), server)


class GrpcServer:
    """A grpc.aio server over the services."""

    def __init__(self, services: Services, stall_seconds: float = STALL_SECONDS) -> None:
        """Watchers that take nothing for `stall_seconds` are dropped."""
        self._server = grpc.aio.server(
            interceptors=(Nested(*arounds_for(services), stall_seconds=stall_seconds),), options=_OPTIONS
        )
        add_servicers(services, self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection([*SERVICES, health_name, reflection.SERVICE_NAME], self._server)
        validation.warm(
            GetMessageClass(method.input_type)
            for file in FILES
            for service in file.services_by_name.values()
            for method in service.methods
        )

    async def start(self, host: str, port: int) -> int:
        """Take calls; returns the port, which the system chooses if `port` is 0. Raises OSError if it is taken.

        `host` may be `unix:` and the path of a socket, which only this user may open then; the port is 0.
        """
        literal = f"[{host}]" if ":" in host else host
        address = host if host.startswith("unix:") else f"{literal}:{port}"
        if address is host and _takes_calls(host.removeprefix("unix:")):
            # gRPC would put its own socket into the place of the other one.
            raise OSError(f"cannot listen on {address}: another server does")
        try:
            bound: int = self._server.add_insecure_port(address)
        except RuntimeError as fault:
            raise OSError(f"cannot listen on {address}: {fault}") from None
        if address is host:
            _close_to_others(Path(host.removeprefix("unix:")))
            bound = 0
        await self._server.start()
        for name in ("", *SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def leave_rotation(self) -> None:
        """Report NOT_SERVING, so that whoever balances load sends nothing more, and go on serving."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Take no more calls and give those under way `grace` seconds."""
        await self._server.stop(grace)


def _takes_calls(path: str) -> bool:
    """Whether somebody listens on this Unix socket; what a dead server left does not count."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _close_to_others(path: Path) -> None:
    """Let this user alone connect. Nobody is connected yet: the server was not started."""
    path.chmod(0o600)
