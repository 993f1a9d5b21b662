"""Recording calls in the audit log: which method is which action, and the interceptors that record it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from cloutagent.v1 import audit_pb2
from cloutagent.v1.error_reason_pb2 import ErrorReason
from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, Resource
from cloutagent_server.domain.errors import AccessDenied, AuthenticationRateLimited, CloutAgentError
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import NAME_PATTERN, SecretsHead
from cloutagent_server.service.audit import AuditTrail, actor_of
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.transport import context as call
from cloutagent_server.transport.context import Context
from cloutagent_server.transport.errors import entry_for
from cloutagent_server.transport.interceptors import Around

Actions = Mapping[str, audit_pb2.Audit]

# Fields of requests that tell what a call is about, by the field of the record.
_FIELDS: Final = {"project_id": "project_id", "execution_id": "execution_id", "key_id": "key_id"}


def actions_of(files: Iterable[FileDescriptor]) -> Actions:
    """What the methods in these files are in the audit log, by path; those that are not recorded are left out."""
    return {
        f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[audit_pb2.audit]
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if method.GetOptions().HasExtension(audit_pb2.audit)
    }


class RefusalAuditing(Around):
    """Records the audited calls of valid keys that access control refuses, and sources that tried too many keys."""

    def __init__(self, actions: Actions, trail: AuditTrail) -> None:
        self._actions = actions
        self._trail = trail

    @asynccontextmanager
    async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        """Let errors pass, and record what they tell."""
        try:
            yield
        except AccessDenied:
            action = self._actions.get(method)
            if action is not None and not call.has_record():
                await self._trail.refused(replace(_entry(action, request, context), outcome=audit.DENIED))
            raise
        except AuthenticationRateLimited as error:
            if error.first:
                await self._trail.note(
                    AuditEntry(
                        actor=audit.ANONYMOUS,
                        action=audit.AUTHENTICATION,
                        outcome=_reason(error),
                        request_id=call.request_id(),
                        source=call.source_of(context),
                    )
                )
            raise


class Auditing(Around):
    """Records an audited call before it is made, or refuses it, and records how it ended."""

    def __init__(self, actions: Actions, trail: AuditTrail, secrets: SecretManager) -> None:
        self._actions = actions
        self._trail = trail
        self._secrets = secrets

    @asynccontextmanager
    async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        """Between two records. Raises StorageUnavailable, with nothing done, if the first cannot be made."""
        action = self._actions.get(method)
        if action is None or getattr(request, "validate_only", False):
            # A dry run does nothing that could be audited.
            yield
            return
        entry, principal = _entry(action, request, context), call.principal()
        if entry.resource.project_id is None and principal is not None and principal.project is not None:
            # A key that may do this to the execution is one of its project.
            entry = replace(entry, resource=replace(entry.resource, project_id=principal.project.id))
        begun = await self._trail.begin(entry)
        resource, outcome = begun.entry.resource, audit.CANCELLED
        call.begin_record()
        try:
            yield
            outcome = audit.OK
        except Exception as error:
            outcome = _reason(error)
            raise
        finally:
            # However the call ended: it may have changed them before.
            head = await self._head(resource.project_id) if action.changes_secrets else None
            await self._trail.end(begun, outcome, replace(resource, **call.learned()), head)

    async def _head(self, project_id: str | None) -> SecretsHead | None:
        if project_id is None:
            return None
        try:
            return await self._secrets.head(project_id)
        except CloutAgentError:
            return None


def _reason(error: Exception) -> str:
    return ErrorReason.Name(entry_for(error).reason)


def _entry(action: audit_pb2.Audit, request: Message, context: Context) -> AuditEntry:
    return AuditEntry(
        actor=actor_of(call.principal()),
        action=action.action,
        outcome=audit.STARTED,
        resource=_resource(action, request),
        request_id=call.request_id(),
        source=call.source_of(context),
    )


def _resource(action: audit_pb2.Audit, request: Message) -> Resource:
    """What a request names, well formed or left out: of a call that was refused nothing has been looked at yet."""
    ids: dict[str, str] = {}
    for name, field in _FIELDS.items():
        value = getattr(request, field, "")
        if name == "project_id" and not value:
            value = getattr(getattr(request, "project", None), "id", "")
        if is_id(value):
            ids[name] = value
    secret = getattr(request, action.secret_field) if action.secret_field else ""
    return Resource(**ids, secret=secret if NAME_PATTERN.fullmatch(secret) else None)
