"""Projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from cloutagent._requests import message
from cloutagent.types import (
    AgentConfig,
    Budget,
    GetCurrentProjectResponse,
    Limits,
    NewProject,
    Project,
    ProjectSummary,
)
from cloutagent.v1 import project_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport


class AsyncProjects:
    """Projects: an agent's configuration, its limits and its budget.

    `project_id` may be left out where the client's own project is meant; see `Client`. `timeout` is in seconds.
    """

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        name: str,
        agent: AgentConfig,
        description: str | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        timeout: float | None = None,
    ) -> NewProject:
        """Create a project and its API key. `agent` needs a name, a system prompt and a model."""
        self._transport.configuration.require_confidential("a new API key")
        request = message(
            project_pb2.CreateProjectRequest,
            name=name,
            description=description,
            agent=agent,
            limits=limits,
            budget=budget,
        )
        answer = await self._transport.call(self._transport.connection.projects.CreateProject, request, timeout)
        return NewProject(answer.project, answer.api_key)

    async def get(self, project_id: str | None = None, *, timeout: float | None = None) -> Project:
        """One project."""
        request = project_pb2.GetProjectRequest(project_id=await self._transport.project(project_id, timeout))
        method = self._transport.connection.projects.GetProject
        return (await self._transport.call(method, request, timeout, repeatable=True)).project

    async def list(
        self, *, page_size: int | None = None, timeout: float | None = None
    ) -> AsyncIterator[ProjectSummary]:
        """All projects that the key may see, oldest first. `page_size` and `timeout` are those of each call."""
        token: str | None = None
        while True:
            request = project_pb2.ListProjectsRequest(page_size=page_size, page_token=token)
            method = self._transport.connection.projects.ListProjects
            page = await self._transport.call(method, request, timeout, repeatable=True)
            for project in page.projects:
                yield project
            if not page.next_page_token:
                return
            token = page.next_page_token

    async def update(
        self,
        project_id: str | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        agent: AgentConfig | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        update_mask: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Project:
        """Change what is given, down to single fields of `agent`, `limits` and `budget`.

        With `update_mask`, its paths change and nothing else does: a path whose field is not given is reset, such as
        `description`, or `agent.enabled_tools` to have none.
        """
        project = message(
            project_pb2.Project,
            id=await self._transport.project(project_id, timeout),
            name=name,
            description=description,
            agent=agent,
            limits=limits,
            budget=budget,
        )
        mask = None if update_mask is None else FieldMask(paths=update_mask)
        request = project_pb2.UpdateProjectRequest(project=project, update_mask=mask)
        return (await self._transport.call(self._transport.connection.projects.UpdateProject, request, timeout)).project

    async def delete(self, project_id: str, *, timeout: float | None = None) -> None:
        """Delete a project with its secrets and executions, after cancelling those that run."""
        request = project_pb2.DeleteProjectRequest(project_id=project_id)
        await self._transport.call(self._transport.connection.projects.DeleteProject, request, timeout)

    async def exists(self, project_id: str, *, timeout: float | None = None) -> bool:
        """Whether there is a project with this id."""
        request = project_pb2.ProjectExistsRequest(project_id=project_id)
        method = self._transport.connection.projects.ProjectExists
        return (await self._transport.call(method, request, timeout, repeatable=True)).exists

    async def current(self, *, timeout: float | None = None) -> GetCurrentProjectResponse:
        """The project that the client's key belongs to, or that it is the admin's."""
        request = project_pb2.GetCurrentProjectRequest()
        method = self._transport.connection.projects.GetCurrentProject
        return await self._transport.call(method, request, timeout, repeatable=True)
