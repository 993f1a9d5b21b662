"""When keys were last used: known at once, stored now and then, and at the stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.project import Project
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.key_uses import KeyUses
from cloutagent_server.service.keys import KeyService
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from cloutagent_server.storage.memory.projects import MemoryProjects
from tests.support import builders
from tests.support.service_world import draft


class Writes:
    """Counts how often uses are stored, and refuses that as often as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.refused = 0
        self.wrote = asyncio.Event()
        note = MemoryProjects.note_key_uses

        async def counted(projects: MemoryProjects, project_id: str, uses: Mapping[str, datetime]) -> None:
            self.count += 1
            self.wrote.set()
            if self.count <= self.refused:
                raise StorageUnavailable("disk full")
            await asyncio.sleep(0)
            await note(projects, project_id, uses)

        monkeypatch.setattr(MemoryProjects, "note_key_uses", counted)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
async def project(storage: MemoryStorage) -> Project:
    return await storage.projects.create(draft(), builders.credential())


@pytest.fixture
async def key_id(storage: MemoryStorage, project: Project) -> str:
    return (await storage.projects.read_keys(project.id))[0].id


@pytest.fixture
async def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


async def test_many_uses_are_stored_once_and_known_before(
    storage: MemoryStorage, project: Project, key_id: str, writes: Writes
) -> None:
    uses = KeyUses(storage.projects)
    for number in range(1000):
        uses.note(project.id, key_id, builders.at(number))
    assert await uses.read(project.id) == {key_id: builders.at(999)}
    assert await storage.projects.read_key_uses(project.id) == {}
    await uses.stop()
    assert writes.count == 1
    assert await storage.projects.read_key_uses(project.id) == await uses.read(project.id) == {key_id: builders.at(999)}


async def test_uses_are_stored_after_a_while_again_and_again(
    storage: MemoryStorage, project: Project, key_id: str, writes: Writes
) -> None:
    uses = KeyUses(storage.projects, flush_seconds=0.001)
    for number in range(3):
        uses.note(project.id, key_id, builders.at(number))
        await asyncio.wait_for(writes.wrote.wait(), 10)
        writes.wrote.clear()
    await uses.stop()
    assert await storage.projects.read_key_uses(project.id) == {key_id: builders.at(2)}


async def test_a_use_during_the_writing_is_not_lost(
    storage: MemoryStorage, project: Project, key_id: str, writes: Writes
) -> None:
    uses = KeyUses(storage.projects, flush_seconds=0.001)
    uses.note(project.id, key_id, builders.at(1))
    await asyncio.wait_for(writes.wrote.wait(), 10)
    uses.note(project.id, key_id, builders.at(2))
    assert await uses.read(project.id) == {key_id: builders.at(2)}
    await uses.stop()
    assert await storage.projects.read_key_uses(project.id) == {key_id: builders.at(2)}


async def test_a_storage_that_refuses_is_logged_and_stops_nothing(
    storage: MemoryStorage, project: Project, key_id: str, writes: Writes
) -> None:
    writes.refused = 1
    uses = KeyUses(storage.projects)
    uses.note(project.id, key_id, builders.at(1))
    with capture_logs() as logs:
        await uses.stop()
    assert [entry["event"] for entry in logs] == ["key_uses_not_stored"]
    uses.note(project.id, key_id, builders.at(2))
    await uses.stop()
    assert await storage.projects.read_key_uses(project.id) == {key_id: builders.at(2)}


async def test_stopping_without_any_use_writes_nothing(storage: MemoryStorage, writes: Writes) -> None:
    await KeyUses(storage.projects).stop()
    assert writes.count == 0


async def test_keys_are_listed_without_times_while_those_are_damaged(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    authenticator = Authenticator(storage.projects)
    keys = KeyService(storage.projects, authenticator)
    project = await storage.projects.create(draft(), builders.credential())
    (key,), _ = await keys.list(project.id)
    path = tmp_path / "projects" / project.id / ".keys" / "last-used.json"
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(1)})
    path.write_bytes(b'{"schemaVersion": 1, "lastUs')
    with capture_logs() as logs:
        assert await keys.list(project.id) == ((key,), {})
        authenticator.uses.note(project.id, key.id, builders.at(2))
        assert await keys.list(project.id) == ((key,), {key.id: builders.at(2)})
    assert {(entry["event"], entry["log_level"], entry["location"]) for entry in logs} == {
        ("key_uses_damaged", "error", str(path))
    }
    with capture_logs() as logs:
        await authenticator.stop()
    assert [entry["event"] for entry in logs] == ["key_uses_not_stored"]
    assert path.read_bytes() == b'{"schemaVersion": 1, "lastUs', "it keeps its bytes"
    await storage.stop()


async def test_a_use_during_a_flush_is_kept_for_the_next(storage: MemoryStorage, project: Project, key_id: str) -> None:
    """`note` is called while the write is under way: the later time is not lost with the earlier one."""
    uses = KeyUses(storage.projects)
    note = storage.projects.note_key_uses

    class Noting:
        async def note_key_uses(self, project_id: str, times: Mapping[str, datetime]) -> None:
            await note(project_id, times)
            if len(seen) == 0:
                seen.append(dict(times))
                uses.note(project_id, key_id, builders.at(9))

    seen: list[Mapping[str, datetime]] = []
    uses.note(project.id, key_id, builders.at(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.projects, "note_key_uses", Noting().note_key_uses)
        await uses.stop()
    assert seen == [{key_id: builders.at(1)}]
    assert await storage.projects.read_key_uses(project.id) == {key_id: builders.at(1)}
    assert await uses.read(project.id) == {key_id: builders.at(9)}
    await uses.stop()
    assert await storage.projects.read_key_uses(project.id) == {key_id: builders.at(9)}
