"""Executions in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from operator import itemgetter

from cloutagent_server.domain.errors import (
    CursorOutOfRange,
    ExecutionNotFound,
    IdempotencyKeyReused,
    ProjectNotFound,
    RevisionConflict,
)
from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.execution import Execution, ExecutionFilter
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import ALL_EXECUTIONS, History, Page
from cloutagent_server.storage.changes import appended
from cloutagent_server.storage.memory.records import ExecutionRecord, Records
from cloutagent_server.storage.selection import select


class MemoryExecutions:
    """`ExecutionStorage` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, execution: Execution) -> Execution:
        """See `ExecutionStorage.create`."""
        owner = self._records.projects.get(execution.project_id)
        if owner is None:
            raise ProjectNotFound(execution.project_id)
        if not is_id(execution.id):
            raise ValueError("an execution's id is not an identifier")
        wanted = execution.idempotency
        if wanted is not None and wanted.key in owner.idempotency:
            earlier = self._records.executions[owner.idempotency[wanted.key]].execution
            if earlier.idempotency != wanted:
                raise IdempotencyKeyReused(earlier.id)
            return earlier
        if execution.id in self._records.executions:
            raise RevisionConflict("the execution exists already")
        self._records.executions[execution.id] = ExecutionRecord(execution)
        self._records.unfinished.add(execution.id)
        owner.execution_ids.add(execution.id)
        if wanted is not None:
            owner.idempotency[wanted.key] = execution.id
        return execution

    async def read(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.read`."""
        record = self._records.executions.get(execution_id)
        return None if record is None else record.execution

    async def append(self, events: Sequence[Event]) -> Execution:
        """See `ExecutionStorage.append`."""
        if not events:
            raise ValueError("there are no events to append")
        execution_id = events[0].execution_id
        record = self._records.executions.get(execution_id)
        if record is None:
            raise ExecutionNotFound(execution_id)
        record.execution, lines = appended(record.execution, events)
        record.events.extend(lines)
        if record.execution.status.terminal:
            self._records.unfinished.discard(execution_id)
        self._records.watchers.wake(execution_id, lines)
        return record.execution

    async def read_events(self, execution_id: str, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """See `ExecutionStorage.read_events`."""
        record = self._records.executions.get(execution_id)
        if record is None:
            raise ExecutionNotFound(execution_id)
        start = max(after_sequence, 0) - record.trimmed
        if start < 0:
            raise CursorOutOfRange(record.trimmed + 1, record.execution.last_sequence)
        return tuple(record.events[start : start + limit])

    async def wait_for_events(
        self, execution_id: str, after_sequence: int, seconds: float | None = None
    ) -> Sequence[StoredEvent] | None:
        """See `ExecutionStorage.wait_for_events`."""
        while (record := self._records.executions.get(execution_id)) is not None:
            if record.execution.last_sequence > after_sequence or record.execution.status.terminal:
                return ()
            with self._records.watchers.waiting(execution_id, after_sequence, seconds) as news:
                events = await news
                if events or events is None:
                    return events
        return ()

    async def find_idempotent(self, project_id: str, key: str) -> Execution | None:
        """See `ExecutionStorage.find_idempotent`."""
        owner = self._records.projects.get(project_id)
        execution_id = None if owner is None else owner.idempotency.get(key)
        return None if execution_id is None else await self.read(execution_id)

    async def list(
        self,
        project_id: str,
        page_size: int,
        page_token: str | None = None,
        wanted: ExecutionFilter = ALL_EXECUTIONS,
    ) -> Page[Execution]:
        """See `ExecutionStorage.list`."""
        before = paging.from_token(project_id, page_token)
        owner = self._records.projects.get(project_id)
        executions = [self._records.executions[key].execution for key in (() if owner is None else owner.execution_ids)]
        placed = ((paging.position(execution.created_at, execution.id), execution) for execution in executions)
        behind = (item for item in placed if before is None or item[0] < before)
        return select(project_id, page_size, wanted, sorted(behind, key=itemgetter(0), reverse=True))

    async def list_unfinished(self) -> Sequence[Execution]:
        """See `ExecutionStorage.list_unfinished`."""
        executions = (self._records.executions[execution_id].execution for execution_id in self._records.unfinished)
        return tuple(sorted(executions, key=lambda execution: paging.position(execution.created_at, execution.id)))

    async def list_abandoned(self) -> Sequence[str]:
        """See `ExecutionStorage.list_abandoned`. There is no other server."""
        return tuple(self._records.unfinished)

    async def claim(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.claim`."""
        return await self.read(execution_id) if execution_id in self._records.unfinished else None

    async def request_cancel(self, execution_id: str) -> None:
        """See `ExecutionStorage.request_cancel`."""
        self._records.cancel_requests.add(execution_id)

    async def list_cancel_requests(self) -> Sequence[str]:
        """See `ExecutionStorage.list_cancel_requests`."""
        return tuple(self._records.cancel_requests)

    async def drop_cancel_request(self, execution_id: str) -> None:
        """See `ExecutionStorage.drop_cancel_request`."""
        self._records.cancel_requests.discard(execution_id)

    async def list_histories(self) -> Sequence[History]:
        """See `ExecutionStorage.list_histories`."""
        return tuple(
            History(
                key, record.execution.finished_at, sum(len(event.data) for event in record.events), record.trimmed > 0
            )
            for key, record in self._records.executions.items()
            if record.execution.finished_at is not None
        )

    async def trim(self, execution_id: str) -> bool:
        """See `ExecutionStorage.trim`."""
        record = self._records.executions.get(execution_id)
        if record is None or not record.execution.status.terminal or len(record.events) < 2:
            return False
        data = b"".join(event.data + b"\n" for event in record.events)
        record.digest = LogDigest(hashlib.sha256(data).hexdigest(), 1, record.execution.last_sequence, len(data))
        record.trimmed += len(record.events) - 1
        del record.events[:-1]
        return True

    async def trimmed_digest(self, execution_id: str) -> LogDigest | None:
        """See `ExecutionStorage.trimmed_digest`."""
        record = self._records.executions.get(execution_id)
        return None if record is None else record.digest

    async def delete(self, execution_id: str) -> None:
        """See `ExecutionStorage.delete`."""
        if execution_id in self._records.executions:
            self._records.remove_execution(execution_id)
