"""Every test here runs against every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders


@pytest.fixture(params=["memory", "filesystem"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    """A started backend without records."""
    backend: Storage = MemoryStorage() if request.param == "memory" else FileSystemStorage(tmp_path / "projects")
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def project(storage: Storage) -> Project:
    """A project in the backend."""
    return await storage.projects.create(builders.project_draft(), builders.credential())
