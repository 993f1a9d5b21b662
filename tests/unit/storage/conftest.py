"""A folder, and storages on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders

OpenStorage = Callable[[], Awaitable[FileSystemStorage]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "projects"


@pytest.fixture
async def open_storage(root: Path) -> AsyncIterator[OpenStorage]:
    """Opens the folder once more with every call, as another server would."""
    opened = []

    async def open_once_more() -> FileSystemStorage:
        storage = FileSystemStorage(root)
        opened.append(storage)
        await storage.start()
        return storage

    yield open_once_more
    for storage in opened:
        await storage.stop()


@pytest.fixture
async def storage(open_storage: OpenStorage) -> FileSystemStorage:
    return await open_storage()


@pytest.fixture
async def project(storage: FileSystemStorage) -> Project:
    return await storage.projects.create(builders.project_draft(), builders.credential())


@pytest.fixture
async def execution(storage: FileSystemStorage, project: Project) -> Execution:
    return await storage.executions.create(builders.execution(project.id))


@pytest.fixture
def log_path(root: Path, project: Project, execution: Execution) -> Path:
    return root / project.id / "executions" / execution.id / "events.jsonl"
