"""Usage reports: what a project used, from its ledger, once or whenever it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.ledger import LedgerTotals
from cloutagent_server.domain.project import Budget
from cloutagent_server.domain.usage import UsageReport, days_between
from cloutagent_server.service.budget_lines import budget_states
from cloutagent_server.storage.base import Storage

HEARTBEAT_SECONDS: Final = 15.0
PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _State:
    """What a report is made from, all but the days: whatever changes a report changes it."""

    totals: LedgerTotals
    budget: Budget


class UsageService:
    """Reports what projects used. The ledger is asked, so what other processes do is seen too."""

    def __init__(
        self, storage: Storage, pause_seconds: float = PAUSE_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        """A watch looks for changes every `pause_seconds`, and gives a sign of life every `heartbeat_seconds`."""
        self._storage = storage
        self._pause_seconds = pause_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._looks: dict[str, asyncio.Task[_State]] = {}

    async def report(self, project_id: str, first: str | None, last: str | None) -> UsageReport:
        """What the project used from one day to another, `YYYY-MM-DD`, by default in the last 30 days.

        Raises:
            ProjectNotFound: There is no such project.
            InvalidRequest: As for `days_between`.
        """
        days = days_between(first, last, timestamps.now())
        return await self._report(project_id, days, await self._state(project_id))

    async def watch(
        self, project_id: str, first: str | None, last: str | None
    ) -> AsyncGenerator[UsageReport | None, None]:
        """The report as it is now, and again when it has changed; None is a heartbeat.

        It costs the ledger one look a second and project, however many watch. Raises as `report` does, ProjectNotFound
        also when the project is deleted meanwhile.
        """
        clock = asyncio.get_running_loop().time
        days = days_between(first, last, timestamps.now())
        # The state is read before the days are: a call that is settled in between is seen as a change after it.
        state = await self._state(project_id)
        yield await self._report(project_id, days, state)
        spoken = clock()
        while True:
            await asyncio.sleep(self._pause_seconds)
            now, before = (days_between(first, last, timestamps.now()), await self._look(project_id)), (days, state)
            if now != before:
                days, state = now
                yield await self._report(project_id, days, state)
            elif clock() - spoken >= self._heartbeat_seconds:
                yield None
            else:
                continue
            spoken = clock()

    async def _report(self, project_id: str, days: tuple[str, str], state: _State) -> UsageReport:
        usage = await self._storage.ledger.usage(project_id, *days)
        return UsageReport(project_id, *days, tuple(usage), tuple(budget_states(state.budget, state.totals)))

    async def _state(self, project_id: str) -> _State:
        project = await self._storage.projects.read(project_id)
        if project is None:
            raise ProjectNotFound(project_id)
        return _State(await self._storage.ledger.totals(project_id, timestamps.now()), project.budget)

    async def _look(self, project_id: str) -> _State:
        """The state as one of the project's watches found it within the pause: they look one for all."""
        look = self._looks.get(project_id)
        if look is None:
            look = self._looks[project_id] = asyncio.create_task(self._state(project_id))
            # Nobody may be left to hear of its fault.
            look.add_done_callback(lambda done: done.cancelled() or done.exception())
            asyncio.get_running_loop().call_later(self._pause_seconds / 2, self._looks.pop, project_id)
        # A watcher that goes away does not end the look of the others.
        return await asyncio.shield(look)
