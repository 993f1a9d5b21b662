"""Executions on disk."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from cloutagent_server.domain.errors import (
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
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.delayed_sync import DelayedSync
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.log import ExecutionLog, LogReplaced, read_execution, write_new
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.open_logs import OpenLogs
from cloutagent_server.storage.filesystem.ownership import Ownership
from cloutagent_server.storage.filesystem.pages import executions_at, readable
from cloutagent_server.storage.filesystem.removal import Removal
from cloutagent_server.storage.filesystem.trimming import digest_in, history_in, trim
from cloutagent_server.storage.filesystem.watch import LogWatch
from cloutagent_server.storage.selection import select

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class FileSystemExecutions:
    """`ExecutionStorage` on disk."""

    def __init__(self, layout: Layout, index: Index, locks: Locks, removal: Removal, ownership: Ownership) -> None:
        self._layout = layout
        self._index = index
        self._locks = locks
        self._removal = removal
        self._ownership = ownership
        self._owners: dict[str, str | None] = {}
        self._logs = OpenLogs(self._locate)
        self._watch = LogWatch(self._logs)
        self._sync = DelayedSync(self._logs)

    async def create(self, execution: Execution) -> Execution:
        """See `ExecutionStorage.create`."""
        if not is_id(execution.project_id):
            raise ProjectNotFound(execution.project_id)
        if not is_id(execution.id):
            raise ValueError("an execution's id is not an identifier")
        return await self._locks.run_for_project(execution.project_id, partial(self._create, execution))

    async def read(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.read`. What is known already needs no thread."""
        log = self._logs.peek(execution_id)
        execution = None if log is None else log.current()
        if execution is None and is_id(execution_id):
            execution = await off_loop(partial(self._read, execution_id))
        return execution

    async def append(self, events: Sequence[Event]) -> Execution:
        """See `ExecutionStorage.append`."""
        if not events:
            raise ValueError("there are no events to append")
        execution_id = events[0].execution_id
        stored: Sequence[StoredEvent] = ()
        try:
            execution = await self._with_log(execution_id, lambda log: self._append(log, events), waits=True)
            log = self._logs.peek(execution_id)
            if log is not None:
                stored = log.recent(events[0].sequence - 1, len(events))
            return execution
        finally:
            self._watch.wake(execution_id, stored)
            log = self._logs.peek(execution_id)
            if log is not None and log.unsynced:
                self._sync.add(execution_id)

    async def read_events(self, execution_id: str, after_sequence: int, limit: int) -> Sequence[StoredEvent]:
        """See `ExecutionStorage.read_events`. What the machine has in memory needs no thread."""
        start = max(after_sequence, 0)
        with self._logs.borrow(execution_id) as log:
            if log is not None:
                found = log.recent(start, limit) or log.at_hand(start, limit)
                current = None if found else log.current()
                if found or (current is not None and current.last_sequence <= start):
                    return found
        return await self._with_log(execution_id, lambda log: log.read(start, limit))

    def wait_for_events(
        self, execution_id: str, after_sequence: int, seconds: float | None = None
    ) -> Coroutine[Any, Any, Sequence[StoredEvent] | None]:
        """See `ExecutionStorage.wait_for_events`. What other processes append is noticed within 0.2 seconds."""
        return self._watch.wait(execution_id, after_sequence, seconds)

    async def find_idempotent(self, project_id: str, key: str) -> Execution | None:
        """See `ExecutionStorage.find_idempotent`."""
        return await off_loop(partial(self._find_by_key, project_id, key)) if is_id(project_id) else None

    async def list(
        self,
        project_id: str,
        page_size: int,
        page_token: str | None = None,
        wanted: ExecutionFilter = ALL_EXECUTIONS,
    ) -> Page[Execution]:
        """See `ExecutionStorage.list`."""
        before = paging.from_token(project_id, page_token)
        if not is_id(project_id):
            return Page((), None)
        places = partial(self._index.newest_executions, project_id)
        found = executions_at(places, before, page_size + 1, wanted, self._read_closed)
        return await off_loop(lambda: select(project_id, page_size, wanted, found))

    async def list_unfinished(self) -> Sequence[Execution]:
        """See `ExecutionStorage.list_unfinished`."""
        return await off_loop(self._list_unfinished)

    async def list_abandoned(self) -> Sequence[str]:
        """See `ExecutionStorage.list_abandoned`."""
        return await off_loop(self._list_abandoned)

    async def claim(self, execution_id: str) -> Execution | None:
        """See `ExecutionStorage.claim`."""
        entry = await off_loop(partial(self._index.find_execution, execution_id)) if is_id(execution_id) else None
        if entry is None:
            return None
        return await self._locks.run_for_project(entry.project_id, partial(self._claim, execution_id))

    async def request_cancel(self, execution_id: str) -> None:
        """See `ExecutionStorage.request_cancel`."""
        if is_id(execution_id):
            await off_loop(partial(self._ownership.request_cancel, execution_id))

    async def list_cancel_requests(self) -> Sequence[str]:
        """See `ExecutionStorage.list_cancel_requests`."""
        return await off_loop(self._ownership.cancel_requests)

    async def drop_cancel_request(self, execution_id: str) -> None:
        """See `ExecutionStorage.drop_cancel_request`."""
        if is_id(execution_id):
            await off_loop(partial(self._ownership.drop_cancel_request, execution_id))

    async def list_histories(self) -> Sequence[History]:
        """See `ExecutionStorage.list_histories`."""
        return await off_loop(self._list_histories)

    async def trim(self, execution_id: str) -> bool:
        """See `ExecutionStorage.trim`."""
        entry = await off_loop(partial(self._index.find_execution, execution_id)) if is_id(execution_id) else None
        if entry is None:
            return False
        directory = self._layout.execution(entry.project_id, execution_id)
        trimmed = await self._locks.run_for_project(entry.project_id, partial(trim, directory, self._layout.staging))
        if trimmed:
            self._logs.drop(execution_id)
        return trimmed

    async def trimmed_digest(self, execution_id: str) -> LogDigest | None:
        """See `ExecutionStorage.trimmed_digest`."""
        directory = await off_loop(partial(self._locate, execution_id)) if is_id(execution_id) else None
        return None if directory is None else await off_loop(partial(digest_in, directory))

    async def delete(self, execution_id: str) -> None:
        """See `ExecutionStorage.delete`."""
        entry = await off_loop(partial(self._index.find_execution, execution_id)) if is_id(execution_id) else None
        if entry is not None:
            remove = partial(self._removal.remove_execution, entry.project_id, execution_id)
            await self._locks.run_for_project(entry.project_id, remove)
            self.forget(execution_id)

    def forget(self, execution_id: str) -> None:
        """Close the log of an execution that was removed, and let its watchers find it gone."""
        self._logs.drop(execution_id)
        self._watch.wake(execution_id)

    async def stop(self) -> None:
        """Close all files."""
        await self._watch.stop()
        await self._sync.stop()
        await off_loop(self._logs.drop_all)

    async def _with_log(self, execution_id: str, work: Callable[[ExecutionLog], T], *, waits: bool = False) -> T:
        def use() -> T:
            with self._logs.use(execution_id) as log:
                if log is None:
                    raise ExecutionNotFound(execution_id)
                return work(log)

        if not is_id(execution_id):
            raise ExecutionNotFound(execution_id)
        return await off_loop(use, waits=waits)

    def _locate(self, execution_id: str) -> Path | None:
        entry = self._index.find_execution(execution_id)
        return None if entry is None else self._layout.execution(entry.project_id, execution_id)

    def _create(self, execution: Execution) -> Execution:
        project_id = execution.project_id
        if not self._layout.metadata(project_id).exists():
            raise ProjectNotFound(project_id)
        earlier = self._find_idempotent(execution)
        if earlier is not None:
            return earlier
        if self._read(execution.id) is not None:
            raise RevisionConflict("the execution exists already")
        unborn = self._layout.unborn_execution(project_id, execution.id)
        home = self._layout.execution(project_id, execution.id)
        try:
            key = execution.idempotency.key if execution.idempotency else None
            self._index.put_execution(project_id, execution.id, execution.created_at, key)
            if not home.parent.is_dir():
                files.make_directory(home.parent)
            unborn.mkdir(files.DIRECTORY_MODE, exist_ok=True)
            write_new(unborn, execution)
            self._ownership.own(unborn)
            unborn.rename(home)
            files.sync_directory(home.parent)
        except BaseException:
            with suppress(OSError):
                home.rename(unborn)
            self._removal.undo_execution(execution.id, [unborn])
            raise
        return execution

    def _find_idempotent(self, execution: Execution) -> Execution | None:
        if execution.idempotency is None:
            return None
        earlier = self._find_by_key(execution.project_id, execution.idempotency.key)
        if earlier is not None and earlier.idempotency != execution.idempotency:
            raise IdempotencyKeyReused(earlier.id)
        return earlier

    def _find_by_key(self, project_id: str, key: str) -> Execution | None:
        execution_id = self._index.find_idempotent(project_id, key)
        return None if execution_id is None else self._read(execution_id)

    def _read(self, execution_id: str) -> Execution | None:
        with self._logs.use(execution_id) as log:
            return None if log is None else log.execution

    def _read_closed(self, execution_id: str) -> Execution | None:
        """Read an execution that is one of many, so that these do not push the live ones out of the open logs."""
        if self._logs.peek(execution_id) is not None:
            return self._read(execution_id)
        directory = self._locate(execution_id)
        return None if directory is None else read_execution(directory)

    def _list_histories(self) -> Sequence[History]:
        found = []
        for project_id in filter(is_id, files.names_in(self._layout.root)):
            for execution_id in filter(is_id, files.names_in(self._layout.executions(project_id))):
                if not self._index.is_unfinished(execution_id):
                    found.append(history_in(self._layout.execution(project_id, execution_id)))
        return tuple(history for history in found if history is not None)

    def _list_abandoned(self) -> Sequence[str]:
        """Owners are read once: that of an execution changes only when the one before has died.

        One that the index has already and its project not yet is being created by somebody.
        """
        own = self._ownership.server_id
        unfinished = [one for one in filter(is_id, self._index.unfinished()) if self._is_there(one)]
        owners = {execution_id: self._owner_of(execution_id) for execution_id in unfinished}
        at_work = {owner: self._ownership.is_at_work(owner) for owner in owners.values() if owner not in (None, own)}
        abandoned = [execution_id for execution_id, owner in owners.items() if not at_work.get(owner or "", False)]
        self._owners = {key: owner for key, owner in owners.items() if owner == own or at_work.get(owner or "", False)}
        self._ownership.drop_dead_leases(at_work)
        return abandoned

    def _is_there(self, execution_id: str) -> bool:
        directory = self._locate(execution_id)
        return execution_id in self._owners or (directory is not None and directory.exists())

    def _owner_of(self, execution_id: str) -> str | None:
        if execution_id in self._owners:
            return self._owners[execution_id]
        directory = self._locate(execution_id)
        return None if directory is None else self._ownership.owner_of(directory)

    def _claim(self, execution_id: str) -> Execution | None:
        directory = self._locate(execution_id)
        execution = self._read(execution_id)
        if directory is None or execution is None or execution.status.terminal:
            return None
        owner = self._ownership.owner_of(directory)
        if owner != self._ownership.server_id:
            if owner is not None and self._ownership.is_at_work(owner):
                return None
            self._ownership.own(directory)
        return execution

    def _append(self, log: ExecutionLog, events: Sequence[Event]) -> Execution:
        try:
            return log.append(events, partial(self._set_finished, log.execution.id))
        except LogReplaced:
            raise RevisionConflict("the log was trimmed, or put back from a backup, meanwhile") from None

    def _set_finished(self, execution_id: str) -> None:
        try:
            self._index.set_finished(execution_id)
        except OSError as fault:
            # The events are stored: that must not be reported as refused. The next start takes the mark away.
            _log.warning("mark_not_removed", execution_id=execution_id, fault=files.describe(fault))

    def _list_unfinished(self) -> Sequence[Execution]:
        found = (execution for _, execution in readable(self._index.unfinished(), self._read_closed))
        unfinished = (execution for execution in found if not execution.status.terminal)
        return tuple(sorted(unfinished, key=lambda execution: paging.position(execution.created_at, execution.id)))
