"""A backend can be asked whether it takes writes."""

from __future__ import annotations

from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage


async def test_a_backend_that_takes_writes_says_so_and_keeps_its_records(storage: Storage, project: Project) -> None:
    await storage.check_writable()
    assert await storage.projects.read(project.id) == project
    assert [one.id for one in (await storage.projects.list(10)).items] == [project.id]
