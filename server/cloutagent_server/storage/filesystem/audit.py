"""The audit log on disk for one event loop: what comes while a write is under way is written together after it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from cloutagent_server.domain.audit import AuditEntry, AuditHead, AuditRecord
from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.secret import SecretsHead
from cloutagent_server.storage.filesystem.audit_files import AuditFiles
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.offload import off_loop

_BATCH: Final = 256

_log = structlog.get_logger(__name__)


class FileSystemAuditLog:
    """`AuditLog` on disk."""

    def __init__(self, layout: Layout) -> None:
        self._files = AuditFiles(layout)
        self._waiting: list[tuple[AuditEntry, asyncio.Future[AuditRecord]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def append(self, entry: AuditEntry) -> AuditRecord:
        """See `AuditLog.append`."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[AuditRecord] = loop.create_future()
        self._waiting.append((entry, written))
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        return await written

    async def read(self, after_sequence: int, limit: int) -> Sequence[AuditRecord]:
        """See `AuditLog.read`."""
        return await off_loop(partial(self._files.read, after_sequence, limit))

    async def head(self) -> AuditHead:
        """See `AuditLog.head`."""
        return await off_loop(self._files.head)

    async def secrets_head(self, project_id: str) -> SecretsHead | None:
        """See `AuditLog.secrets_head`."""
        return await off_loop(partial(self._files.secrets_head, project_id))

    async def stop(self) -> None:
        """Return when everything that was to be added is."""
        if self._writer is not None:
            await asyncio.wait({self._writer})

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                await self._write_batch(batch)
        finally:
            self._writer = None

    async def _write_batch(self, batch: Sequence[tuple[AuditEntry, asyncio.Future[AuditRecord]]]) -> None:
        entries = [entry for entry, _ in batch]
        cause = "the audit log was not written"
        records: tuple[AuditRecord, ...] = ()
        try:
            records = tuple(await off_loop(partial(self._files.append, entries), waits=True))
        except StorageUnavailable as fault:
            cause = fault.cause
        except Exception as fault:
            # Those who wait behind this batch are not to wait for ever.
            _log.exception("audit_batch_failed")
            cause = f"the audit log was not written: {type(fault).__name__}"
        finally:
            for number, (_, written) in enumerate(batch):
                if written.done():
                    continue
                if records:
                    written.set_result(records[number])
                else:
                    written.set_exception(StorageUnavailable(cause))
