"""Projects in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from heapq import nsmallest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.errors import ProjectNotFound, RevisionConflict
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import KeyOwner, Page
from cloutagent_server.storage.changes import changed, created, first_key, used
from cloutagent_server.storage.memory.records import ProjectRecord, Records


class MemoryProjects:
    """`ProjectStorage` in memory."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, draft: ProjectDraft, credential: KeyCredential) -> Project:
        """See `ProjectStorage.create`."""
        project = created(draft, new_id(), timestamps.now())
        self._records.projects[project.id] = ProjectRecord(project, (first_key(project, credential),))
        self._records.keys[credential.digest] = project.id
        return project

    async def read(self, project_id: str) -> Project | None:
        """See `ProjectStorage.read`."""
        record = self._records.projects.get(project_id)
        return None if record is None else record.project

    async def update(self, project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        """See `ProjectStorage.update`."""
        record = self._found(project_id)
        if expected_revision not in (None, record.project.revision):
            raise RevisionConflict("the project changed since it was read")
        record.project = changed(record.project, changes, timestamps.now())
        return record.project

    async def delete(self, project_id: str) -> None:
        """See `ProjectStorage.delete`."""
        record = self._records.projects.pop(project_id, None)
        if record is None:
            return
        self._forget_keys(project_id, record.keys)
        self._records.settlements.wake(project_id)
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
        if project_id is None:
            return None
        record = self._records.projects[project_id]
        return KeyOwner(record.project, next(key for key in record.keys if key.credential.digest == digest))

    async def read_keys(self, project_id: str) -> ApiKeys:
        """See `ProjectStorage.read_keys`."""
        return self._found(project_id).keys

    async def change_keys(self, project_id: str, change: Callable[[ApiKeys], ApiKeys]) -> ApiKeys:
        """See `ProjectStorage.change_keys`."""
        record = self._found(project_id)
        keys = change(record.keys)
        self._forget_keys(project_id, record.keys)
        record.keys = keys
        self._records.keys.update({key.credential.digest: project_id for key in keys})
        return keys

    async def read_key_uses(self, project_id: str) -> Mapping[str, datetime]:
        """See `ProjectStorage.read_key_uses`."""
        record = self._records.projects.get(project_id)
        return {} if record is None else record.key_uses

    async def note_key_uses(self, project_id: str, uses: Mapping[str, datetime]) -> None:
        """See `ProjectStorage.note_key_uses`."""
        record = self._records.projects.get(project_id)
        if record is not None:
            record.key_uses = used(record.key_uses, uses, record.keys)

    def _found(self, project_id: str) -> ProjectRecord:
        record = self._records.projects.get(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        return record

    def _forget_keys(self, project_id: str, keys: ApiKeys) -> None:
        for key in keys:
            if self._records.keys.get(key.credential.digest) == project_id:
                del self._records.keys[key.credential.digest]
