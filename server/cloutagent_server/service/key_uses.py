"""When API keys were last used: known here at once, stored within a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import structlog

from cloutagent_server.domain.errors import CloutAgentError, StoredDataDamaged
from cloutagent_server.storage.base import ProjectStorage

FLUSH_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


class KeyUses:
    """Gathers uses and writes them at most once a minute for each key, and at the stop.

    A crash loses the last minute; other processes on the same records see a use up to a minute later.
    """

    def __init__(self, projects: ProjectStorage, flush_seconds: float = FLUSH_SECONDS) -> None:
        self._projects = projects
        self._flush_seconds = flush_seconds
        self._pending: dict[str, dict[str, datetime]] = {}
        self._flushing: asyncio.Task[None] | None = None

    def note(self, project_id: str, key_id: str, time: datetime) -> None:
        """A key was used. Costs no I/O."""
        self._pending.setdefault(project_id, {})[key_id] = time
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush_later())

    async def read(self, project_id: str) -> Mapping[str, datetime]:
        """When each key of a project was last used, by key id, what is not stored yet included.

        If what is stored is damaged, only the latter: the times are not worth refusing the keys for.
        """
        try:
            stored = await self._projects.read_key_uses(project_id)
        except StoredDataDamaged as fault:
            _log.error("key_uses_damaged", project_id=project_id, location=fault.location, fault=fault.fault)
            stored = {}
        return {**stored, **self._pending.get(project_id, {})}

    async def stop(self) -> None:
        """Write what is not stored yet."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.wait({self._flushing})
        await self._flush()

    async def _flush_later(self) -> None:
        while self._pending:
            await asyncio.sleep(self._flush_seconds)
            await self._flush()
        self._flushing = None

    async def _flush(self) -> None:
        for project_id in list(self._pending):
            uses = dict(self._pending[project_id])
            try:
                await self._projects.note_key_uses(project_id, uses)
            except CloutAgentError as fault:
                _log.warning("key_uses_not_stored", project_id=project_id, fault=str(fault))
            later = {key_id: time for key_id, time in self._pending.pop(project_id).items() if time != uses.get(key_id)}
            if later:
                self._pending[project_id] = later
