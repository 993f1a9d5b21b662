"""Contracts of storage. Every backend keeps all the promises below; the suite in tests/conformance proves it.

Identifiers are checked before they touch anything: one that is not a UUID in lower case names no record, so reads
give None and writes raise the NotFound error. All methods may raise `StoredDataDamaged` for a record that cannot be
read (never taken for missing, never overwritten) and `StorageUnavailable` for a write that the medium refused; a
write that raised has left no trace. Lists take a `page_size` of at least 1, leave damaged records out, and log them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, Protocol, TypeVar

from cloutagent_server.domain.api_key import ApiKey, ApiKeys
from cloutagent_server.domain.audit import AuditEntry, AuditHead, AuditRecord
from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.execution import Execution, ExecutionFilter
from cloutagent_server.domain.ledger import DayUsage, LedgerCall, LedgerTotals, Reservation, Settlement
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.domain.secret import SealedSecret, SecretRecord, SecretsHead

T = TypeVar("T")

ALL_EXECUTIONS: Final = ExecutionFilter()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list. `next_page_token` is None at the end."""

    items: tuple[T, ...]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class History:
    """The log of an ended execution.

    Attributes:
        ended_at: When its last event was stored.
        size: In bytes.
        trimmed: Whether only its last event is left.
    """

    execution_id: str
    ended_at: datetime
    size: int
    trimmed: bool


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key a digest stands for, with what to check the key against."""

    project: Project
    key: ApiKey


class ProjectStorage(Protocol):
    """Projects and the look-up of their API keys."""

    async def create(self, draft: ProjectDraft, credential: KeyCredential) -> Project:
        """Store a new project with a new id, both times set to now, and revision 1.

        `credential` becomes its one key, named `default`. The record is durable, and its key found, when this returns.
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
        """Remove the project, its keys, its secrets and its executions. A missing project is no error."""
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
        """Whose API key has this digest; None if nobody's. The cost does not grow with the number of projects.

        Sees every change of keys that returned before, in other processes too. Whether the key has expired is left to
        the caller.
        """
        ...

    async def read_keys(self, project_id: str) -> ApiKeys:
        """All API keys of a project, the default key first, expired ones included. Raises ProjectNotFound."""
        ...

    async def change_keys(self, project_id: str, change: Callable[[ApiKeys], ApiKeys]) -> ApiKeys:
        """Set a project's keys to what `change` makes of the stored ones, in one step, and return them.

        Nobody else changes the project meanwhile. `change` may be called in another thread; what it raises is raised
        here, and nothing was changed. When this returns, the change is durable: new keys are found, and those left
        out are not. A crash leaves either the old keys or the new ones. Revision and times stay as they are.

        Raises:
            ProjectNotFound: There is no such project.
        """
        ...

    async def read_key_uses(self, project_id: str) -> Mapping[str, datetime]:
        """When keys were last used, by key id, as far as it was noted; empty without the project."""
        ...

    async def note_key_uses(self, project_id: str, uses: Mapping[str, datetime]) -> None:
        """Note when keys were last used. An earlier time than the noted one, and a key that is gone, are passed over.

        A missing project is no error.
        """
        ...


class SecretStorage(Protocol):
    """Sealed secrets of projects with their manifests. This contract never sees a plain value, nor a key.

    Whether values and manifest belong together is for the caller to check: what somebody changed behind the server's
    back is given as it stands.
    """

    async def read(self, project_id: str) -> SecretRecord:
        """A project's secrets as one change left them, never a part of it; empty without any or without the project."""
        ...

    async def update(self, project_id: str, change: Callable[[SecretRecord], SecretRecord | None]) -> SecretRecord:
        """Replace a project's secrets by what `change` makes of them, and return them as they stand then.

        Values and manifest change as one. Concurrent calls lose nothing: each `change` sees what the one before made.
        It may be called in a thread and more than once, and changes nothing where it returns None or raises. What a
        crash left of an earlier change is completed or undone.

        Raises:
            ProjectNotFound: There is no such project.
            RevisionConflict: The new manifest's revision is not the one that follows the revision of the stored one.
        """
        ...

    async def list_owners(self) -> Sequence[str]:
        """The projects that have secrets, also those whose own record is damaged, in no order."""
        ...

    async def read_key_check(self) -> SealedSecret | None:
        """The value that tells whether a key is the one that sealed the secrets; None if none was ever put."""
        ...

    async def put_key_check(self, sealed: SealedSecret, replaces: SealedSecret | None = None) -> None:
        """Store that value if `replaces` is what stands (None: nothing). Another one that stands already stays.

        So of two servers that start at once the first wins.
        """
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
            CursorOutOfRange: The next event was trimmed away.
        """
        ...

    async def wait_for_events(
        self, execution_id: str, after_sequence: int, seconds: float | None = None
    ) -> Sequence[StoredEvent] | None:
        """Return once there is an event after `after_sequence`, or the execution has ended or does not exist.

        Returns the events that follow `after_sequence` if they are at hand, and often nothing: then they are to be
        read. None if nothing happened for so many `seconds`; without them it waits without end.
        """
        ...

    async def find_idempotent(self, project_id: str, key: str) -> Execution | None:
        """The project's execution that was created with this idempotency key, or None if there is none."""
        ...

    async def list(
        self,
        project_id: str,
        page_size: int,
        page_token: str | None = None,
        wanted: ExecutionFilter = ALL_EXECUTIONS,
    ) -> Page[Execution]:
        """Those of a project's executions that are `wanted`, by creation time, newest first; empty without the project.

        At most `page_size`; fewer where their texts would have more than 2 MiB together, and where 1,000 executions
        were looked at: such a page may be empty and still have a next one. An execution that exists, and is wanted,
        during the whole of a paged listing is in it exactly once.

        Raises:
            InvalidRequest: `page_token` is not one that this backend issued.
        """
        ...

    async def list_unfinished(self) -> Sequence[Execution]:
        """All executions that have not ended, oldest first. Its cost does not grow with those that have."""
        ...

    async def list_abandoned(self) -> Sequence[str]:
        """The unfinished executions that no other server at work owns, this server's own included, in no order.

        Whoever creates or claims an execution owns it, until it ends or the server stops or dies, however it dies.
        """
        ...

    async def claim(self, execution_id: str) -> Execution | None:
        """Make this server the owner of an unfinished execution, and return it as its last owner left it.

        None if another server at work owns it, or it has ended or is not there. Of several servers one gets it.
        """
        ...

    async def request_cancel(self, execution_id: str) -> None:
        """Leave word for whoever owns an execution, now or later, to cancel it. Durable when this returns."""
        ...

    async def list_cancel_requests(self) -> Sequence[str]:
        """The executions that are to be cancelled, in no order: by whatever server's request, until it is dropped."""
        ...

    async def drop_cancel_request(self, execution_id: str) -> None:
        """Forget a request to cancel. A missing one is no error."""
        ...

    async def list_histories(self) -> Sequence[History]:
        """The logs of all executions that have ended, in no order. Its cost grows with their number."""
        ...

    async def trim(self, execution_id: str) -> bool:
        """Remove all events but the last from the log of an ended execution, and give whether there were any.

        What the execution was created with and what its events made of it stay, and the digest of the whole log. A
        crash leaves the old log or the new. Nothing happens to an execution that has not ended or is not there.
        """
        ...

    async def trimmed_digest(self, execution_id: str) -> LogDigest | None:
        """The digest of a trimmed log as it was before; None if it was not trimmed or is not there.

        None as well for one that was trimmed by an earlier version, which kept no digest.
        """
        ...

    async def delete(self, execution_id: str) -> None:
        """Remove an execution with its log. A missing one is no error."""
        ...


class AuditLog(Protocol):
    """Who did what. Records are only ever added; each holds the hash of the one before it.

    Damage does not stop it: what cannot be read is passed over, and the next record chains on the last one that can.
    """

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """Add a record at the end, with the present time.

        It is durable when this returns. Concurrent calls may share the work that takes. A caller that is cancelled
        meanwhile does not stop it.

        Raises:
            StorageUnavailable: There is no such record.
        """
        ...

    async def read(self, after_sequence: int, limit: int) -> Sequence[AuditRecord]:
        """Up to `limit` records after a sequence number, in their order; empty if there are none."""
        ...

    async def head(self) -> AuditHead:
        """What stands for the last record. Sees every record whose `append` returned before, in other processes too."""
        ...

    async def secrets_head(self, project_id: str) -> SecretsHead | None:
        """The newest state of a project's secrets that a record tells, seen as by `head`; None if none does.

        That is the one of the highest revision after the last restore of the project. A deleted project has none.
        """
        ...


def _ignored() -> None:
    """Nobody makes use of the time that storing takes."""


class Ledger(Protocol):
    """What the model calls of projects may cost and did cost: the truth about money.

    A call is reserved, then settled once, and both outlive the deletion of its execution; a project's ledger goes with
    the project. It belongs to the day and the month of its reservation, in UTC. All processes see one ledger: what was
    reserved or settled before, by anybody, is in the totals.
    """

    async def reserve(
        self,
        project_id: str,
        now: datetime,
        decide: Callable[[LedgerTotals], Reservation | None],
        storing: Callable[[], None] = _ignored,
    ) -> LedgerTotals:
        """Show `decide` the totals at `now` and store the reservation that it returns, in one step.

        Nobody else reserves for the project meanwhile. A stored reservation is durable when this returns. `decide` may
        be called in another thread; where it returns None or raises, nothing is stored. `storing` is called in the same
        thread, once, right before the wait for the medium that makes the reservation durable. The totals are returned
        as `decide` saw them.

        Raises:
            ProjectNotFound: There is no such project.
            ValueError: The call is under way already.
        """
        ...

    async def settle(self, project_id: str, settlement: Settlement) -> bool:
        """Put what a call used in the place of its reservation, durably, and wake those who wait.

        False, and nothing is changed, if there is no such reservation or it was settled before.
        """
        ...

    async def totals(self, project_id: str, now: datetime) -> LedgerTotals:
        """What the project has used at `now`; nothing without the project."""
        ...

    async def wait_for_settlement(self, project_id: str, version: int) -> None:
        """Return once a call was settled after the totals with this version, or sooner, or the project is gone."""
        ...

    async def calls(
        self, project_id: str, execution_id: str, since: datetime, until: datetime | None = None
    ) -> Sequence[LedgerCall]:
        """The calls of an execution in the order of their reservations; none without the project.

        `since` is a time before its first call, such as its creation, and `until` one after its last, such as its end:
        older and newer months need not be looked at.

        Raises:
            StoredDataDamaged: Something in these months cannot be read, whosever it is.
        """
        ...

    async def usage(self, project_id: str, first_day: str, last_day: str) -> Sequence[DayUsage]:
        """What settled calls used on each day of a range (`YYYY-MM-DD`, both included), by day and model.

        A day or a model without usage is left out.
        """
        ...


class Storage(Protocol):
    """One backend: its five parts over the same records, and its life."""

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

    @property
    def audit(self) -> AuditLog:
        """The audit log, which outlives the projects."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Ledgers."""
        ...

    async def start(self) -> None:
        """Make the backend ready: create what is missing, complete or undo what a crash left half done."""
        ...

    async def check_writable(self) -> None:
        """Try whether the medium takes writes now. Leaves nothing behind, and needs a backend that has started.

        Raises:
            StorageUnavailable: It does not.
        """
        ...

    async def stop(self) -> None:
        """Release what the backend holds. Nothing acknowledged is lost without it."""
        ...
