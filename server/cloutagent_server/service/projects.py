"""Projects: created with a key, changed, listed, deleted with all that belongs to them."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from cloutagent_server.domain.errors import FieldViolation, InvalidRequest, ProjectNotFound, RevisionConflict
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import (
    LONGEST_TIMEOUT,
    AgentConfig,
    Limits,
    Project,
    ProjectChanges,
    ProjectDraft,
)
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.service import mcp
from cloutagent_server.service.auth import Authenticator, Principal
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.template import parse
from cloutagent_server.storage.base import Page, ProjectStorage

_UPDATE_ATTEMPTS: Final = 20
_UPDATE_PAUSE_SECONDS: Final = 0.01


class ProjectService:
    """Use cases around projects."""

    def __init__(
        self,
        storage: ProjectStorage,
        authenticator: Authenticator,
        executions: ExecutionService,
        prices: PriceList,
        engine: Engine,
        longest_timeout: int = LONGEST_TIMEOUT,
    ) -> None:
        """No project may set a timeout above `longest_timeout` milliseconds; one that has it already may keep it."""
        self._storage = storage
        self._authenticator = authenticator
        self._executions = executions
        self._prices = prices
        self._engine = engine
        self._longest_timeout = longest_timeout
        self._update_locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def create(self, draft: ProjectDraft) -> tuple[Project, str]:
        """Store a new project; returns it with its API key, which nobody can read again.

        Raises:
            InvalidRequest: The price list does not know the model, a tool is not available, the system prompt is no
                valid template, or the timeout is longer than this server allows.
        """
        _refuse([*self._faults(draft.agent, "agent"), *self._too_long(draft.limits, "limits")])
        draft = replace(draft, agent=replace(draft.agent, id=new_id()))
        api_key = self._authenticator.generate_api_key()
        project = await self._storage.create(draft, await self._authenticator.credential_for(api_key))
        return project, api_key

    async def get(self, project_id: str) -> Project:
        """The project. Raises ProjectNotFound."""
        project = await self._storage.read(project_id)
        if project is None:
            raise ProjectNotFound(project_id)
        return project

    async def list(self, principal: Principal, page_size: int, page_token: str | None) -> Page[Project]:
        """The projects that the caller may see: all, or the caller's own once the operator has set an admin key."""
        if principal.project is not None and self._authenticator.has_admin:
            return Page((principal.project,), None)
        return await self._storage.list(page_size, page_token)

    async def update(self, project_id: str, change: Callable[[Project], ProjectChanges]) -> Project:
        """Apply `change`, a function from the stored project to what is to be set, and return the result.

        Concurrent calls come one after the other, in this server by waiting and among several by trying again.

        Raises:
            ProjectNotFound: There is no such project.
            InvalidRequest: As for `create`, or from `change`.
            RevisionConflict: Other servers changed the project again and again in between.
        """
        # The lock lives as long as somebody holds it or waits for it.
        async with self._update_locks.setdefault(project_id, asyncio.Lock()):
            for attempt in range(_UPDATE_ATTEMPTS - 1):
                with contextlib.suppress(RevisionConflict):
                    return await self._update_once(project_id, change)
                await asyncio.sleep(_UPDATE_PAUSE_SECONDS * attempt)
            return await self._update_once(project_id, change)

    async def delete(self, project_id: str) -> None:
        """Cancel the project's executions, then remove it with all that belongs to it. Raises ProjectNotFound."""
        if not await self._storage.exists(project_id):
            raise ProjectNotFound(project_id)
        await self._executions.cancel_all(project_id)
        project = await self._storage.read(project_id)
        await self._storage.delete(project_id)
        if project is not None:
            self._engine.forget(project.agent.id)
        # One that was started since, in the moment before the project was gone.
        self._executions.abandon(project_id)

    async def exists(self, project_id: str) -> bool:
        """Whether there is such a project."""
        return await self._storage.exists(project_id)

    async def _update_once(self, project_id: str, change: Callable[[Project], ProjectChanges]) -> Project:
        project = await self.get(project_id)
        changes = change(project)
        faults = [*self._faults(changes.agent, "project.agent")] if isinstance(changes.agent, AgentConfig) else []
        if isinstance(changes.limits, Limits) and changes.limits.timeout != project.limits.timeout:
            faults.extend(self._too_long(changes.limits, "project.limits"))
        _refuse(faults)
        updated = await self._storage.update(project_id, changes, project.revision)
        if updated.agent != project.agent:
            self._engine.forget(project.agent.id)
        return updated

    def _too_long(self, limits: Limits, field: str) -> Sequence[FieldViolation]:
        if limits.timeout <= self._longest_timeout:
            return ()
        return [FieldViolation(f"{field}.timeout", f"must be at most {self._longest_timeout} on this server")]

    def _faults(self, agent: AgentConfig, field: str) -> Sequence[FieldViolation]:
        """`field` is where the request has the agent."""
        faults = []
        if not self._prices.knows(agent.model):
            faults.append(FieldViolation(f"{field}.model", f"{agent.model!r} is not in the price list; see ListModels"))
        faults.extend(
            FieldViolation(f"{field}.enabledTools", f"the tool {name!r} is not available on this server: {reason}")
            for name, reason in self._engine.refused_tools(agent.enabled_tools).items()
        )
        faults.extend(mcp.faults_of(agent, field, self._engine))
        try:
            parse(agent.system_prompt, f"{field}.systemPrompt")
        except InvalidRequest as fault:
            faults.extend(fault.violations)
        return faults


def _refuse(faults: Sequence[FieldViolation]) -> None:
    if faults:
        raise InvalidRequest(faults)
