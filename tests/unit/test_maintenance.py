"""The daily backup of a server, and what the operator's commands make of the settings."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest
from pydantic import SecretStr

from cloutagent_server import maintenance
from cloutagent_server.domain.audit import EMPTY
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.service import cipher
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.settings import Settings, keyring_of
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup import archive, keeping
from cloutagent_server.storage.filesystem.backup.archive import BackupDamaged, Manifest
from cloutagent_server.storage.filesystem.backup.create import BackupCancelled
from cloutagent_server.storage.filesystem.backup.verify import verify
from tests.support import builders
from tests.support.secret_changes import put_secret


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


async def test_a_backup_that_cannot_be_restored_takes_the_place_of_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = FileSystemStorage(settings.project_root)
    await storage.start()
    await storage.projects.create(builders.project_draft(), builders.credential())
    for _ in range(2):
        maintenance.make_backup(settings)
    before = set(settings.backup_root.iterdir())
    write = archive.write

    def spoil(target: BinaryIO, manifest: Manifest, contents: BinaryIO) -> None:
        listed = tuple(replace(file, sha256="0" * 64) for file in manifest.files)
        write(target, replace(manifest, files=listed), contents)

    monkeypatch.setattr(archive, "write", spoil)
    with pytest.raises(BackupDamaged):
        maintenance.make_backup(settings)
    assert set(settings.backup_root.iterdir()) == before


async def test_a_folder_without_projects_pushes_no_backup_out(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await FileSystemStorage(settings.project_root).start()
    settings.backup_root.mkdir()
    for day in (1, 2):
        keeping.path_at(settings.backup_root, datetime(2001, 1, day, tzinfo=UTC)).touch()
    before = set(settings.backup_root.iterdir())
    caplog.set_level(logging.INFO)
    daily = maintenance.daily_backup(settings)
    daily.start()
    await eventually(lambda: "nothing_to_back_up" in caplog.messages)
    await daily.stop()
    assert set(settings.backup_root.iterdir()) == before


async def test_a_stop_ends_a_backup_under_way(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.project_root / new_id()).mkdir(parents=True)
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
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    findings = await asyncio.to_thread(maintenance.examine, settings, repair=True)
    [finding] = [one for one in findings if "TOKEN cannot be opened" in one.fault]
    assert finding.fault.startswith("TOKEN cannot be opened")
    [listed] = json.loads(maintenance.to_json([finding], EMPTY))["findings"]
    assert listed["severity"] == "error"
    assert maintenance.fault_of(settings.model_copy(update={"encryption_key": None})) is None


@pytest.fixture
async def with_secrets(settings: Settings) -> tuple[Path, Path]:
    """Two secrets of one project, and where they lie: secrets.enc and the manifest beside it."""
    storage = FileSystemStorage(settings.project_root)
    await storage.start()
    manager = SecretManager(storage.secrets, keyring_of(settings))
    await manager.check_key()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await manager.set_secret(project.id, "ONE", "first")
    await manager.set_secret(project.id, "TWO", "second")
    await storage.stop()
    folder = settings.project_root / project.id / ".secrets"
    return folder / "secrets.enc", folder / "manifest.json"


def faults(settings: Settings) -> str:
    return "\n".join(finding.fault for finding in maintenance.examine(settings))


async def examined(settings: Settings) -> str:
    return await asyncio.to_thread(faults, settings)


async def test_a_value_that_was_moved_to_another_name_is_named(
    settings: Settings, with_secrets: tuple[Path, Path]
) -> None:
    sealed, _ = with_secrets
    assert await examined(settings) == ""
    values = json.loads(sealed.read_bytes())
    sealed.write_text(json.dumps({"ONE": values["TWO"], "TWO": values["ONE"]}))
    found = await examined(settings)
    assert "ONE" in found
    assert "TWO" in found


async def test_values_that_were_rolled_back_alone_are_named(
    settings: Settings, with_secrets: tuple[Path, Path]
) -> None:
    sealed, _ = with_secrets
    before = sealed.read_bytes()
    storage = FileSystemStorage(settings.project_root)
    await SecretManager(storage.secrets, keyring_of(settings)).set_secret(sealed.parents[1].name, "ONE", "newer")
    sealed.write_bytes(before)
    assert "ONE" in await examined(settings)


async def test_a_manifest_that_was_altered_is_found(settings: Settings, with_secrets: tuple[Path, Path]) -> None:
    _, manifest = with_secrets
    document = json.loads(manifest.read_bytes())
    document["revision"] += 1
    manifest.write_text(json.dumps(document))
    assert await examined(settings) != ""


async def test_what_another_program_added_is_adopted(settings: Settings, with_secrets: tuple[Path, Path]) -> None:
    sealed, _ = with_secrets
    values = json.loads(sealed.read_bytes())
    values["THREE"] = cipher.to_json(keyring_of(settings).current.seal("third"))
    sealed.write_text(json.dumps(values))
    assert "THREE" in await examined(settings)
    assert await asyncio.to_thread(maintenance.adopt, settings) == [f"{sealed.parents[1].name}: THREE"]
    assert await examined(settings) == ""
