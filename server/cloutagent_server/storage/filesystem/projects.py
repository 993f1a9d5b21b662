"""Projects on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.errors import ProjectNotFound, RevisionConflict
from cloutagent_server.domain.identifiers import is_id, new_id
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges, ProjectDraft
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import KeyOwner, Page
from cloutagent_server.storage.changes import changed, created, first_key
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.keys import KeyFiles
from cloutagent_server.storage.filesystem.layout import METADATA, Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.pages import collect
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project, project_to_json
from cloutagent_server.storage.filesystem.removal import Removal
from cloutagent_server.storage.filesystem.schema import DIGEST
from cloutagent_server.storage.filesystem.unchanged import Unchanged


class FileSystemProjects:
    """`ProjectStorage` on disk. `forget` is told each execution that went with its project."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        locks: Locks,
        removal: Removal,
        keys: KeyFiles,
        forget: Callable[[str], None],
    ) -> None:
        self._layout = layout
        self._index = index
        self._locks = locks
        self._removal = removal
        self._keys = keys
        self._forget = forget
        self._records = Unchanged[ProjectRecord]()

    async def create(self, draft: ProjectDraft, credential: KeyCredential) -> Project:
        """See `ProjectStorage.create`."""
        if DIGEST.fullmatch(credential.digest) is None:
            raise ValueError("the digest of a key is 64 hexadecimal digits in lower case")
        project = created(draft, new_id(), timestamps.now())
        await off_loop(partial(self._create, ProjectRecord(project, (first_key(project, credential),))), waits=True)
        return project

    async def read(self, project_id: str) -> Project | None:
        """See `ProjectStorage.read`. A file that is as it was needs no thread."""
        if not is_id(project_id):
            return None
        path = self._layout.metadata(project_id)
        record = self._records.get(path)
        if record is None:
            record = await off_loop(lambda: self._records.read(path, partial(load_project, path, project_id)))
        return None if record is None else record.project

    async def update(self, project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        """See `ProjectStorage.update`."""
        if not is_id(project_id):
            raise ProjectNotFound(project_id)
        update = partial(self._update, project_id, changes, expected_revision)
        return await self._locks.run_for_project(project_id, update)

    async def delete(self, project_id: str) -> None:
        """See `ProjectStorage.delete`."""
        if not is_id(project_id):
            return
        for execution_id in await self._locks.run_for_project(project_id, partial(self._delete, project_id)):
            self._forget(execution_id)

    async def list(self, page_size: int, page_token: str | None = None) -> Page[Project]:
        """See `ProjectStorage.list`."""
        after = paging.from_token(paging.PROJECTS, page_token)
        return await off_loop(
            lambda: collect(paging.PROJECTS, page_size, after, self._index.oldest_projects, self._listed)
        )

    async def exists(self, project_id: str) -> bool:
        """See `ProjectStorage.exists`."""
        return is_id(project_id) and await off_loop(self._layout.metadata(project_id).exists)

    async def find_key(self, digest: str) -> KeyOwner | None:
        """See `ProjectStorage.find_key`."""
        if DIGEST.fullmatch(digest) is None:
            return None
        # Every call of the API asks. Where no file has changed it needs no thread.
        project_id = self._index.known_key(digest)
        record = None if project_id is None else self._records.get(self._layout.metadata(project_id))
        return await off_loop(partial(self._find_key, digest)) if record is None else _owner_of(digest, record)

    async def read_keys(self, project_id: str) -> ApiKeys:
        """See `ProjectStorage.read_keys`."""
        return (await off_loop(partial(self._found, project_id))).keys

    async def change_keys(self, project_id: str, change: Callable[[ApiKeys], ApiKeys]) -> ApiKeys:
        """See `ProjectStorage.change_keys`."""
        if not is_id(project_id):
            raise ProjectNotFound(project_id)
        return await self._locks.run_for_project(project_id, partial(self._change_keys, project_id, change))

    async def read_key_uses(self, project_id: str) -> Mapping[str, datetime]:
        """See `ProjectStorage.read_key_uses`."""
        return await off_loop(partial(self._keys.uses, project_id)) if is_id(project_id) else {}

    async def note_key_uses(self, project_id: str, uses: Mapping[str, datetime]) -> None:
        """See `ProjectStorage.note_key_uses`."""
        if is_id(project_id):
            await self._locks.run_for_project(project_id, partial(self._note_key_uses, project_id, uses))

    def _load(self, project_id: str) -> ProjectRecord | None:
        return load_project(self._layout.metadata(project_id), project_id) if is_id(project_id) else None

    def _found(self, project_id: str) -> ProjectRecord:
        record = self._load(project_id)
        if record is None:
            raise ProjectNotFound(project_id)
        return record

    def _create(self, record: ProjectRecord) -> None:
        project = record.project
        unborn = self._layout.unborn_project(project.id)
        home = self._layout.project(project.id)
        with self._locks.sharing():
            try:
                files.make_directory(unborn)
                files.make_directory(unborn / ".secrets")
                files.make_directory(unborn / "executions")
                files.write(unborn / METADATA, dump(project_to_json(record)))
                for key in record.keys:
                    self._index.put_key(key.credential.digest, project.id)
                self._index.put_project(project.created_at, project.id)
                unborn.rename(home)
                files.sync_directory(self._layout.root)
            except BaseException:
                with suppress(OSError):
                    home.rename(unborn)
                self._removal.undo_project(record, [unborn])
                raise

    def _update(self, project_id: str, changes: ProjectChanges, expected_revision: int | None) -> Project:
        record = self._found(project_id)
        if expected_revision not in (None, record.project.revision):
            raise RevisionConflict("the project changed since it was read")
        project = changed(record.project, changes, timestamps.now())
        content = dump(project_to_json(ProjectRecord(project, record.keys)))
        files.write(self._layout.metadata(project_id), content, self._layout.staging)
        return project

    def _delete(self, project_id: str) -> tuple[str, ...]:
        execution_ids = tuple(filter(is_id, files.names_in(self._layout.executions(project_id))))
        self._removal.remove_project(project_id)
        return execution_ids

    def _listed(self, project_id: str) -> Project | None:
        record = self._load(project_id)
        return None if record is None else record.project

    def _find_key(self, digest: str) -> KeyOwner | None:
        project_id = self._index.find_key(digest)
        if project_id is None:
            return None
        path = self._layout.metadata(project_id)
        record = self._records.read(path, partial(self._load, project_id))
        return None if record is None else _owner_of(digest, record)

    def _change_keys(self, project_id: str, change: Callable[[ApiKeys], ApiKeys]) -> ApiKeys:
        record = self._found(project_id)
        keys = change(record.keys)
        if any(DIGEST.fullmatch(key.credential.digest) is None for key in keys):
            raise ValueError("the digest of a key is 64 hexadecimal digits in lower case")
        self._keys.change(record, keys)
        return keys

    def _note_key_uses(self, project_id: str, uses: Mapping[str, datetime]) -> None:
        record = self._load(project_id)
        if record is not None:
            self._keys.note_uses(record, uses)


def _owner_of(digest: str, record: ProjectRecord) -> KeyOwner | None:
    found = (KeyOwner(record.project, key) for key in record.keys if key.credential.digest == digest)
    return next(found, None)
