"""The audit log and the operator's commands: rotation, adoption, backups, restores, rollbacks that the doctor shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from cloutagent_server import maintenance
from cloutagent_server.cli import cli
from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, AuditRecord, Resource
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.maintenance import rotate_key
from cloutagent_server.service.audit import HeldAgainstAudit
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.settings import Settings, keyring_of
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup.verify import verify
from tests.support import builders
from tests.support.api.witness import files_with

KEY, NEW_KEY = "ab" * 32, "cd" * 32
VALUE = "a value that nobody else may read"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        app_env="test",
        anthropic_base_url="http://127.0.0.1",
        project_root=tmp_path / "projects",
        backup_root=tmp_path / "backups",
        encryption_key=SecretStr(KEY),
    )


class Place:
    """A folder as a server has it: a storage, and secrets held against the audit log."""

    def __init__(self, settings: Settings) -> None:
        self.storage = FileSystemStorage(settings.project_root)
        self.secrets = SecretManager(HeldAgainstAudit(self.storage.secrets, self.storage.audit), keyring_of(settings))

    async def project(self) -> str:
        await self.storage.start()
        await self.secrets.check_key()
        return (await self.storage.projects.create(builders.project_draft(), builders.credential())).id

    async def set(self, project_id: str, value: str = VALUE) -> None:
        """Set a secret, and record it."""
        await self.secrets.set_secret(project_id, "TOKEN", value)
        head = await self.secrets.head(project_id)
        entry = AuditEntry("admin", "secret.set", audit.OK, Resource(project_id, secret="TOKEN"), secrets_head=head)
        await self.storage.audit.append(entry)


def secrets_of(settings: Settings, project_id: str) -> dict[Path, bytes]:
    directory = settings.project_root / project_id / ".secrets"
    return {path: path.read_bytes() for path in directory.iterdir()}


def put_back(kept: dict[Path, bytes]) -> None:
    for path, content in kept.items():
        path.write_bytes(content)


def of_action(settings: Settings, action: str) -> Sequence[AuditRecord]:
    return [record for record in maintenance.audit_records(settings) if record.entry.action == action]


async def _two_states(settings: Settings) -> tuple[str, dict[Path, bytes]]:
    """A project whose secret was set twice, and the files as they were after the first time."""
    place = Place(settings)
    project_id = await place.project()
    await place.set(project_id)
    first = secrets_of(settings, project_id)
    await place.set(project_id, "another")
    return project_id, first


def test_a_rollback_of_both_files_is_refused_and_shown_by_the_doctor(settings: Settings) -> None:
    project_id, first = asyncio.run(_two_states(settings))
    assert maintenance.examine(settings) == []
    put_back(first)
    [finding] = maintenance.examine(settings)
    assert finding.fault == (
        f"secrets of project {project_id}: were rolled back: the audit log knows them at revision 2, "
        "and they are at revision 1"
    )
    with pytest.raises(StoredDataDamaged):
        asyncio.run(Place(settings).secrets.get_secret(project_id, "TOKEN"))
    with pytest.raises(StoredDataDamaged):
        asyncio.run(Place(settings).secrets.set_secret(project_id, "TOKEN", "a third"))
    for path in first:
        path.unlink()
    with pytest.raises(StoredDataDamaged):
        asyncio.run(Place(settings).secrets.list_secrets(project_id))


def test_a_change_that_was_made_and_not_recorded_is_no_rollback(settings: Settings) -> None:
    project_id, _ = asyncio.run(_two_states(settings))
    asyncio.run(Place(settings).secrets.set_secret(project_id, "TOKEN", "a third"))
    assert maintenance.examine(settings) == []


@pytest.mark.parametrize("emptied", [False, True])
def test_a_restore_sets_the_log_back_and_is_recorded(settings: Settings, tmp_path: Path, emptied: bool) -> None:
    place = Place(settings)
    project_id = asyncio.run(place.project())
    asyncio.run(place.set(project_id))
    backup = maintenance.make_backup(settings)
    assert sum(file.of_audit_log for file in verify(backup.path).files) == 1
    pinned = maintenance.audit_head(settings)
    asyncio.run(Place(settings).set(project_id, "another"))
    if emptied:
        settings = settings.model_copy(update={"project_root": tmp_path / "elsewhere"})
    done = maintenance.restore_backup(settings, backup.path, replace_existing=True, dry_run=False)
    assert (done.created if emptied else done.replaced) == (project_id,)
    begun, ended = of_action(settings, audit.RESTORE_BACKUP)
    assert (begun.entry.outcome, ended.entry.outcome, ended.entry.start) == (audit.STARTED, audit.OK, begun.sequence)
    assert begun.sequence == pinned.sequence + (1 if emptied else 2)
    assert not emptied or begun.previous == pinned.hash
    assert maintenance.examine(settings) == []
    assert asyncio.run(Place(settings).secrets.get_secret(project_id, "TOKEN")) == VALUE
    asyncio.run(Place(settings).set(project_id, "a third"))
    assert maintenance.examine(settings) == []
    for folder in (settings.project_root, settings.backup_root):
        assert files_with(folder, VALUE) == []


def test_a_restore_that_cannot_be_recorded_is_not_made(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    project_id, _ = asyncio.run(_two_states(settings))
    backup = maintenance.make_backup(settings)
    before = secrets_of(settings, project_id)

    def refuse(*_: object) -> None:
        raise StorageUnavailable("No space left on device")

    monkeypatch.setattr("cloutagent_server.storage.filesystem.audit_files.AuditFiles.append", refuse)
    with pytest.raises(StorageUnavailable):
        maintenance.restore_backup(settings, backup.path, replace_existing=True, dry_run=False)
    with pytest.raises(StorageUnavailable):
        asyncio.run(rotate_key(settings, lambda _: None))
    assert secrets_of(settings, project_id) == before


def test_a_rotation_is_recorded_for_each_project_that_it_changed(settings: Settings) -> None:
    project_id, _ = asyncio.run(_two_states(settings))
    old = secrets_of(settings, project_id)
    rotated = settings.model_copy(
        update={"encryption_key": SecretStr(NEW_KEY), "encryption_keys_retired": SecretStr(KEY)}
    )
    asyncio.run(rotate_key(rotated, lambda _: None))
    records = of_action(settings, audit.ROTATE_ENCRYPTION_KEY)
    assert [record.entry.outcome for record in records] == [audit.STARTED, audit.OK, audit.OK]
    assert {record.entry.actor for record in records} == {audit.OPERATOR}
    changed = records[1].entry
    assert changed.resource.project_id == project_id
    assert changed.secrets_head == asyncio.run(Place(rotated).secrets.head(project_id))
    assert maintenance.examine(rotated) == []
    put_back(old)
    assert len(maintenance.examine(rotated)) == 1


def test_an_adoption_is_recorded(settings: Settings) -> None:
    project_id, _ = asyncio.run(_two_states(settings))
    path = settings.project_root / project_id / ".secrets" / "secrets.enc"
    added = asyncio.run(Place(settings).secrets.encrypt("from elsewhere"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "OTHER": added}))
    assert maintenance.adopt(settings) == [f"{project_id}: OTHER"]
    begun, ended = of_action(settings, audit.ADOPT_SECRETS)
    assert (begun.entry.outcome, ended.entry.outcome) == (audit.STARTED, audit.OK)
    assert ended.entry.resource.project_id == project_id
    assert ended.entry.secrets_head == asyncio.run(Place(settings).secrets.head(project_id))
    assert maintenance.examine(settings) == []


def test_the_commands_print_the_log_and_its_head(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_two_states(settings))
    monkeypatch.setattr("cloutagent_server.cli._settings_of_folder", lambda: settings)
    printed = CliRunner().invoke(cli, ["audit"])
    assert printed.exit_code == 0
    records = [json.loads(line) for line in printed.stdout.splitlines()]
    assert [record["sequence"] for record in records] == [1, 2]
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 0
    assert f"audit log: record 2, hash {records[1]['hash']}" in told.output
    listed = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    assert listed == {"findings": [], "auditLog": {"sequence": 2, "hash": records[1]["hash"]}}
