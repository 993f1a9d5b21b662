"""An in-memory storage that tests can slow down and break."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.execution import Execution, ExecutionFilter
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage.base import ALL_EXECUTIONS, History, Page
from cloutagent_server.storage.memory import MemoryStorage
from cloutagent_server.storage.memory.audit import MemoryAuditLog
from cloutagent_server.storage.memory.executions import MemoryExecutions
from cloutagent_server.storage.memory.ledger import MemoryLedger
from cloutagent_server.storage.memory.projects import MemoryProjects
from cloutagent_server.storage.memory.secrets import MemorySecrets


class HookedExecutions:
    """`ExecutionStorage` in memory with hooks in front of its writes and reads.

    Attributes:
        before_append: Awaited with the events before they are stored; what it raises is raised instead of storing.
        after_append: Awaited after the events are stored and before `append` returns.
        before_create: Awaited with the execution before it is stored.
        after_read: Awaited between a look at an execution and the return of `read`.
    """

    def __init__(self, inner: MemoryExecutions) -> None:
        self._inner = inner
        self.before_append: Callable[[Sequence[Event]], Awaitable[None]] = _nothing
        self.after_append: Callable[[Sequence[Event]], Awaitable[None]] = _nothing
        self.before_create: Callable[[Execution], Awaitable[None]] = _nothing
        self.after_read: Callable[[str], Awaitable[None]] = _nothing

    async def create(self, execution: Execution) -> Execution:
        """See `ExecutionStorage.create`."""
        await self.before_create(execution)
        return await self._inner.create(execution)

    async def read(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.read`."""
        execution = await self._inner.read(execution_id)
        await self.after_read(execution_id)
        return execution

    async def append(self, events: Sequence[Event]) -> Execution:
        """See `ExecutionStorage.append`."""
        await self.before_append(events)
        execution = await self._inner.append(events)
        await self.after_append(events)
        return execution

    async def read_events(self, execution_id: str, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """See `ExecutionStorage.read_events`."""
        return await self._inner.read_events(execution_id, after_sequence, limit)

    async def wait_for_events(
        self, execution_id: str, after_sequence: int, seconds: float | None = None
    ) -> Sequence[StoredEvent] | None:
        """See `ExecutionStorage.wait_for_events`."""
        return await self._inner.wait_for_events(execution_id, after_sequence, seconds)

    async def find_idempotent(self, project_id: str, key: str) -> Execution | None:
        """See `ExecutionStorage.find_idempotent`."""
        return await self._inner.find_idempotent(project_id, key)

    async def list(
        self,
        project_id: str,
        page_size: int,
        page_token: str | None = None,
        wanted: ExecutionFilter = ALL_EXECUTIONS,
    ) -> Page[Execution]:
        """See `ExecutionStorage.list`."""
        return await self._inner.list(project_id, page_size, page_token, wanted)

    async def list_unfinished(self) -> Sequence[Execution]:
        """See `ExecutionStorage.list_unfinished`."""
        return await self._inner.list_unfinished()

    async def list_abandoned(self) -> Sequence[str]:
        """See `ExecutionStorage.list_abandoned`."""
        return await self._inner.list_abandoned()

    async def claim(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.claim`."""
        return await self._inner.claim(execution_id)

    async def request_cancel(self, execution_id: str) -> None:
        """See `ExecutionStorage.request_cancel`."""
        await self._inner.request_cancel(execution_id)

    async def list_cancel_requests(self) -> Sequence[str]:
        """See `ExecutionStorage.list_cancel_requests`."""
        return await self._inner.list_cancel_requests()

    async def drop_cancel_request(self, execution_id: str) -> None:
        """See `ExecutionStorage.drop_cancel_request`."""
        await self._inner.drop_cancel_request(execution_id)

    async def list_histories(self) -> Sequence[History]:
        """See `ExecutionStorage.list_histories`."""
        return await self._inner.list_histories()

    async def trim(self, execution_id: str) -> bool:
        """See `ExecutionStorage.trim`."""
        return await self._inner.trim(execution_id)

    async def trimmed_digest(self, execution_id: str) -> LogDigest | None:
        """See `ExecutionStorage.trimmed_digest`."""
        return await self._inner.trimmed_digest(execution_id)

    async def delete(self, execution_id: str) -> None:
        """See `ExecutionStorage.delete`."""
        await self._inner.delete(execution_id)


class HookedStorage:
    """`Storage` in memory whose executions have hooks."""

    def __init__(self) -> None:
        self._inner = MemoryStorage()
        self._executions = HookedExecutions(self._inner.executions)

    @property
    def projects(self) -> MemoryProjects:
        """Projects."""
        return self._inner.projects

    @property
    def secrets(self) -> MemorySecrets:
        """Secrets."""
        return self._inner.secrets

    @property
    def executions(self) -> HookedExecutions:
        """Executions, with hooks."""
        return self._executions

    @property
    def audit(self) -> MemoryAuditLog:
        """The audit log."""
        return self._inner.audit

    @property
    def ledger(self) -> MemoryLedger:
        """Ledgers."""
        return self._inner.ledger

    async def start(self) -> None:
        """Nothing is to be prepared."""

    async def check_writable(self) -> None:
        """Memory takes writes."""

    async def stop(self) -> None:
        """Nothing is held."""


async def _nothing(_: object) -> None:
    """The hook that does nothing."""
