"""Who may call what: the access rules of the protos, resolved for every method at start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message

from cloutagent.v1 import access_pb2
from cloutagent_server.domain.errors import (
    AccessDenied,
    ApiKeyMissing,
    ExecutionNotFound,
    ProjectNotFound,
)
from cloutagent_server.service.attempts import FailedAttempts
from cloutagent_server.service.auth import Authenticator, Principal
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.projects import ProjectService

Rules = Mapping[str, access_pb2.Access]

# Methods of services that are not ours, by path: anyone may ask for health and for the API's shape.
FOREIGN_RULES: Final[Rules] = {
    path: access_pb2.Access(anyone=True)
    for path in (
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    )
}


class MissingRule(Exception):
    """A method has no access rule, or one that names a field it does not have. The server must not start."""


def rules_of(files: Iterable[FileDescriptor]) -> Rules:
    """The rules of all methods in these files, by path (`/package.Service/Method`), and those of foreign services.

    Raises:
        MissingRule: A method has none, or its rule is faulty.
    """
    rules = dict(FOREIGN_RULES)
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                rules[f"/{service.full_name}/{method.name}"] = _rule_of(method)
    return rules


def _rule_of(method: MethodDescriptor) -> access_pb2.Access:
    rule: access_pb2.Access = method.GetOptions().Extensions[access_pb2.access]
    kind = rule.WhichOneof("rule")
    if kind is None or getattr(rule, kind) in (False, ""):
        raise MissingRule(f"{method.full_name} has no access rule")
    if kind in ("project_field", "execution_field"):
        message: Descriptor | None = method.input_type
        for name in getattr(rule, kind).split("."):
            field = None if message is None else message.fields_by_name.get(name)
            if field is None:
                raise MissingRule(f"{method.full_name}: its access rule names no field of the request")
            message = field.message_type
    return rule


@dataclass(frozen=True, slots=True)
class AccessControl:
    """Decides whether a caller may make a call."""

    authenticator: Authenticator
    projects: ProjectService
    executions: ExecutionService
    failed_attempts: FailedAttempts

    def needs_key(self, rule: access_pb2.Access) -> bool:
        """Whether a call under this rule needs a key."""
        return not (rule.anyone or (rule.anyone_until_admin_key and not self.authenticator.has_admin))

    async def identify(self, api_key: str | None, source: str) -> Principal:
        """Who has this key; `source` is the address that it comes from.

        Raises:
            ApiKeyMissing: There is none.
            ApiKeyInvalid: It is not valid.
            AuthenticationRateLimited: Too many keys from this source were not valid, and this one is not either or is
                a short admin key, which nobody shall find by trying.
        """
        if not api_key:
            raise ApiKeyMissing
        principal = await self.authenticator.authenticate(api_key)
        if principal is None:
            raise self.failed_attempts.failure(source)
        if principal.admin and self.authenticator.admin_guessable:
            refusal = self.failed_attempts.refusal(source)
            if refusal is not None:
                raise refusal
        return principal

    async def check(self, rule: access_pb2.Access, principal: Principal, request: Message) -> str | None:
        """Let the call pass or raise; returns the project that it is about, None if it is about none.

        Raises:
            AccessDenied: The caller's key does not open what the request names.
            ProjectNotFound, ExecutionNotFound: It does not exist.
        """
        match rule.WhichOneof("rule"):
            case "anyone" | "any_key":
                pass
            case "project_field":
                project_id = _field(request, rule.project_field)
                return project_id if await self._check_project(rule, principal, project_id) else None
            case "execution_field":
                return await self._check_execution(principal, _field(request, rule.execution_field))
            case _:
                if not principal.admin:
                    raise AccessDenied("this needs the admin key")
        return None

    async def _check_project(self, rule: access_pb2.Access, principal: Principal, project_id: str) -> bool:
        """Let it pass or raise; returns whether there is such a project."""
        if principal.project is not None and principal.project.id == project_id:
            return True
        if not await self.projects.exists(project_id):
            if not rule.may_be_missing:
                raise ProjectNotFound(project_id)
            return False
        if not principal.admin:
            raise AccessDenied("the API key belongs to another project")
        return True

    async def _check_execution(self, principal: Principal, execution_id: str) -> str:
        """Let it pass or raise; returns the execution's project."""
        execution = await self.executions.find(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        if principal.project is not None and principal.project.id != execution.project_id:
            raise AccessDenied("the execution belongs to another project")
        return execution.project_id


def _field(request: Message, path: str) -> str:
    value: object = reduce(getattr, path.split("."), request)
    return str(value)
