"""Projects in memory."""

from __future__ import annotations

from heapq import nsmallest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import ProjectNotFound, RevisionConflict
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import KeyOwner, Page
from cloutagent_server.storage.changes import changed, created
from cloutagent_server.storage.memory.records import ProjectRecord, Records


class MemoryProjects:
    """`ProjectStorage` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, draft: ProjectDraft, credential: KeyCredential) -> Project:
        """See `ProjectStorage.create`."""
        project = created(draft, new_id(), timestamps.now())
        self._records.projects[project.id] = ProjectRecord(project, credential)
        self._records.keys[credential.digest] = project.id
        return project

    async def read(self, project_id: str) -> Project | None:
        """See `ProjectStorage.read`."""
        record = self._records.projects.get(project_id)
        return None if record is None else record.project

    async def update(self, project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        """See `ProjectStorage.update`."""
        record = self._records.projects.get(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        if expected_revision not in (None, record.project.revision):
            raise RevisionConflict("the project changed since it was read")
        record.project = changed(record.project, changes, timestamps.now())
        return record.project

    async def delete(self, project_id: str) -> None:
        """See `ProjectStorage.delete`."""
        record = self._records.projects.pop(project_id, None)
        if record is None:
            return
        if self._records.keys.get(record.credential.digest) == project_id:
            del self._records.keys[record.credential.digest]
        for execution_id in record.execution_ids:
            self._records.remove_execution(execution_id)

    async def list(self, page_size: int, page_token: str | None = None) -> Page[Project]:
        """See `ProjectStorage.list`."""
        after = paging.from_token(paging.PROJECTS, page_token)
        places = (paging.position(r.project.created_at, r.project.id) for r in self._records.projects.values())
        page = nsmallest(page_size + 1, (place for place in places if after is None or place > after))
        token = paging.to_token(paging.PROJECTS, page[page_size - 1]) if len(page) > page_size else None
        ids = map(paging.identifier_at, page[:page_size])
        return Page(tuple(self._records.projects[project_id].project for project_id in ids), token)

    async def exists(self, project_id: str) -> bool:
        """See `ProjectStorage.exists`."""
        return project_id in self._records.projects

    async def find_key(self, digest: str) -> KeyOwner | None:
        """See `ProjectStorage.find_key`."""
        project_id = self._records.keys.get(digest)
        return None if project_id is None else KeyOwner(project_id, self._records.projects[project_id].credential)
