"""The executions that this server answers for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.base import ExecutionStorage

log: Final = logging.getLogger(__name__)


class LiveExecutions:
    """Which executions this server queued, runs or is about to end, and how it takes on what nobody answers for."""

    def __init__(self, executions: ExecutionStorage) -> None:
        self._executions = executions
        self._live: set[str] = set()
        self._claiming: set[str] = set()
        self._unreadable: set[str] = set()

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._live

    def add(self, execution_id: str) -> None:
        """Answer for an execution that is this server's in the storage already."""
        self._live.add(execution_id)

    def discard(self, execution_id: str) -> None:
        """Answer for an execution no more, if this server did."""
        self._live.discard(execution_id)

    async def claim(self, execution_id: str) -> Execution | None:
        """Answer for an execution from now on and return it; None if somebody does already, or nobody needs to.

        This server does not answer for it while it asks: another one's execution is another one's all the time.
        """
        if execution_id in self._live or execution_id in self._claiming:
            return None
        self._claiming.add(execution_id)
        try:
            claimed = await self._executions.claim(execution_id)
            if claimed is not None:
                self._live.add(execution_id)
            return claimed
        finally:
            self._claiming.discard(execution_id)

    async def claim_abandoned(self) -> Sequence[Execution]:
        """Answer from now on for all that no server at work answers for; oldest first.

        One that cannot be read is left alone, and reported once; one that cannot be claimed now is left for later.
        """
        abandoned = [one for one in await self._executions.list_abandoned() if one not in self._unreadable]
        claimed = [execution for one in abandoned if (execution := await self._claim_readable(one)) is not None]
        return sorted(claimed, key=lambda execution: (execution.created_at, execution.id))

    async def _claim_readable(self, execution_id: str) -> Execution | None:
        try:
            return await self.claim(execution_id)
        except StoredDataDamaged as damage:
            self._unreadable.add(execution_id)
            named = {"execution_id": execution_id, "location": damage.location, "fault": damage.fault}
            log.error("a damaged execution is left alone", extra=named)
        except Exception:
            log.exception("an execution was not claimed", extra={"execution_id": execution_id})
        return None
