"""Contracts of storage. Every backend keeps all the promises below; the suite in tests/conformance proves it.

Identifiers are checked before they touch anything: one that is not a UUID in lower case names no record, so reads
give None and writes raise the NotFound error. All methods may raise `StoredDataDamaged` for a record that cannot be
read (never taken for missing, never overwritten) and `StorageUnavailable` for a write that the medium refused; a
write that raised has left no trace. Lists take a `page_size` of at least 1, leave damaged records out, and log them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.domain.secret import SealedSecret

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list. `next_page_token` is None at the end."""

    items: tuple[T, ...]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key a digest stands for, and what to check the key against."""

    project_id: str
    credential: KeyCredential


class ProjectStorage(Protocol):
    """Projects and the look-up of their API keys."""

    async def create(self, draft: ProjectDraft, credential: KeyCredential) -> Project:
        """Store a new project with a new id, both times set to now, revision 1 and `credential` as its key.

        The record is durable, and its key found, when this returns.
        """
        ...

    async def read(self, project_id: str) -> Project | None:
        """The project, or None if there is none. Sees every write that returned before."""
        ...

    async def update(self, project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        """Set the fields in `changes`, `updated_at` to now (never earlier than before) and raise the revision by one.

        Raises:
            ProjectNotFound: There is no such project.
            RevisionConflict: `expected_revision` is given and is not the stored one; nothing was changed.
        """
        ...

    async def delete(self, project_id: str) -> None:
        """Remove the project, its key, its secrets and its executions. A missing project is no error."""
        ...

    async def list(self, page_size: int, page_token: str | None = None) -> Page[Project]:
        """Projects by creation time, oldest first, at most `page_size` of them.

        A project that exists during the whole of a paged listing is in it exactly once.

        Raises:
            InvalidRequest: `page_token` is not one that this backend issued.
        """
        ...

    async def exists(self, project_id: str) -> bool:
        """Whether there is such a project."""
        ...

    async def find_key(self, digest: str) -> KeyOwner | None:
        """Whose API key has this digest; None if nobody's. The cost does not grow with the number of projects."""
        ...


class SecretStorage(Protocol):
    """Sealed secrets of projects. This contract never sees a plain value."""

    async def read(self, project_id: str) -> Mapping[str, SealedSecret]:
        """All secrets of a project by name; empty if it has none or does not exist."""
        ...

    async def put(self, project_id: str, name: str, sealed: SealedSecret) -> None:
        """Store a secret, replacing the one of that name. Concurrent calls for different names lose nothing.

        Raises:
            ProjectNotFound: There is no such project.
        """
        ...

    async def remove(self, project_id: str, name: str) -> bool:
        """Remove a secret. False if there was none of that name (or no such project)."""
        ...

    async def read_key_check(self) -> SealedSecret | None:
        """The value that tells whether a key is the one that sealed the secrets; None if none was ever put."""
        ...

    async def put_key_check(self, sealed: SealedSecret) -> None:
        """Store that value. One that stands already stays, so that of two servers that start at once the first wins."""
        ...


class ExecutionStorage(Protocol):
    """Executions and their event logs. The log is the truth: an execution is its creation with its events applied."""

    async def create(self, execution: Execution) -> Execution:
        """Store a new execution without events, and return it.

        If the project has an execution with the same idempotency key, nothing is stored: that execution is returned
        when its request digest is the same too. Two concurrent calls with one key create one execution.

        Raises:
            ProjectNotFound: There is no such project.
            IdempotencyKeyReused: The key stands for another request.
            RevisionConflict: There is an execution with this id already.
            ValueError: The execution's id is not an identifier.
        """
        ...

    async def read(self, execution_id: str) -> Execution | None:
        """The execution with all stored events applied, or None if there is none."""
        ...

    async def append(self, events: Sequence[Event]) -> Execution:
        """Add events of one execution to its log, all or none, and return the execution after them.

        The log is durable when this returns, unless all the events are text deltas; of those that came last, a loss of
        power (never the death of the process) may take some, the last ones. Watchers are woken; none is waited for.
        Only a crash in the middle of it may leave the first of the events without the others.

        Raises:
            ExecutionNotFound: There is no such execution.
            RevisionConflict: The first event is not the next in sequence: another writer came first.
            ValueError: An event cannot follow the state it meets, or there are no events.
        """
        ...

    async def read_events(self, execution_id: str, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """Up to `limit` stored events after `after_sequence`, in order without gaps; empty if there are none.

        There may be more even when fewer than `limit` are returned: only empty is the end.

        Raises:
            ExecutionNotFound: There is no such execution.
        """
        ...

    async def wait_for_events(self, execution_id: str, after_sequence: int) -> None:
        """Return once there is an event after `after_sequence`, or the execution has ended or does not exist."""
        ...

    async def list(self, project_id: str, page_size: int, page_token: str | None = None) -> Page[Execution]:
        """A project's executions by creation time, newest first, at most `page_size`; empty without the project.

        An execution that exists during the whole of a paged listing is in it exactly once.

        Raises:
            InvalidRequest: `page_token` is not one that this backend issued.
        """
        ...

    async def list_unfinished(self) -> Sequence[Execution]:
        """All executions that have not ended, oldest first. Its cost does not grow with those that have."""
        ...

    async def delete(self, execution_id: str) -> None:
        """Remove an execution with its log. A missing one is no error."""
        ...


class Storage(Protocol):
    """One backend: its three parts over the same records, and its life."""

    @property
    def projects(self) -> ProjectStorage:
        """Projects."""
        ...

    @property
    def secrets(self) -> SecretStorage:
        """Secrets."""
        ...

    @property
    def executions(self) -> ExecutionStorage:
        """Executions."""
        ...

    async def start(self) -> None:
        """Make the backend ready: create what is missing, complete or undo what a crash left half done."""
        ...

    async def stop(self) -> None:
        """Release what the backend holds. Nothing acknowledged is lost without it."""
        ...
