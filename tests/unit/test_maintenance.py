"""The daily backup of a server, and what the operator's commands make of the settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from cloutagent_server import maintenance
from cloutagent_server.settings import Settings
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup import keeping
from cloutagent_server.storage.filesystem.backup.create import BackupCancelled
from cloutagent_server.storage.filesystem.backup.restore import verify
from tests.support import builders


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        anthropic_base_url="http://127.0.0.1",
        project_root=tmp_path / "projects",
        backup_root=tmp_path / "backups",
        backup_keep=2,
        encryption_key=SecretStr("ab" * 32),
    )


async def eventually(holds: Callable[[], bool]) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not holds():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_a_backup_that_was_missed_is_made_at_the_start(settings: Settings) -> None:
    storage = FileSystemStorage(settings.project_root)
    await storage.start()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    settings.backup_root.mkdir()
    old = [datetime(2001, 1, day, tzinfo=UTC) for day in (1, 2)]
    for time in old:
        keeping.path_at(settings.backup_root, time).touch()
    daily = maintenance.daily_backup(settings)
    daily.start()
    await eventually(lambda: not keeping.path_at(settings.backup_root, old[0]).exists())
    await daily.stop()
    newest = max(settings.backup_root.glob("cloutagent-*"))
    assert {file.project_id for file in verify(newest).files} == {project.id}
    assert len(list(settings.backup_root.iterdir())) == 2


async def test_a_stop_ends_a_backup_under_way(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.backup_root.mkdir()
    keeping.path_at(settings.backup_root, datetime(2001, 1, 1, tzinfo=UTC)).touch()
    loop, started, ended = asyncio.get_running_loop(), asyncio.Event(), False

    def slow(*_: object, cancelled: object, **__: object) -> object:
        nonlocal ended
        assert callable(cancelled)
        loop.call_soon_threadsafe(started.set)
        while not cancelled():
            pass
        ended = True
        raise BackupCancelled

    monkeypatch.setattr(maintenance, "back_up", slow)
    daily = maintenance.daily_backup(settings)
    daily.start()
    await asyncio.wait_for(started.wait(), 20)
    await daily.stop()
    assert ended


async def test_values_are_opened_with_the_key_of_the_settings(settings: Settings) -> None:
    storage = FileSystemStorage(settings.project_root)
    await storage.start()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await storage.secrets.put(project.id, "TOKEN", builders.sealed_secret())
    [finding] = maintenance.examine(settings, repair=True)
    assert finding.fault.startswith("TOKEN cannot be opened")
    [listed] = json.loads(maintenance.to_json([finding]))["findings"]
    assert listed["severity"] == "error"
    assert maintenance.fault_of(settings.model_copy(update={"encryption_key": None})) is None
