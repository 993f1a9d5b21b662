"""A change of secrets that dies at any of its steps loses no acknowledged value and never looks like tampering."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.service.key_rotation import rotate_encryption_key
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import WrongEncryptionKey, inspect
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.crash_points import BOTH_KEYS, NEW_KEY, OLD_KEY, SECRET_OPERATIONS
from tests.support.folders import leftovers
from tests.unit.storage.test_crashes import run_crashes

State = dict[str, list[tuple[int, str | None]]]

# How many steps an operation has at least. Adopting changes one file, the others two, one of them twice.
STEPS = {"adopt secrets": 4}


async def opened(folder: Path, project_id: str, keyring: Keyring = BOTH_KEYS) -> State:
    """All values in all versions, newest first, read by a server that was running already."""
    storage = FileSystemStorage(folder)
    manager = SecretManager(storage.secrets, keyring)
    state: State = {}
    for name in await manager.list_secrets(project_id):
        versions = await manager.list_versions(project_id, name) or []
        state[name] = [(kept.version, await manager.get_secret(project_id, name, kept.version)) for kept in versions]
    return state


async def assert_no_alarm(folder: Path, project_id: str, adopted: bool) -> None:
    found = await inspect(FileSystemStorage(folder).secrets, BOTH_KEYS, project_id)
    assert [finding for finding in found if adopted or not finding.adoptable] == []


@pytest.fixture
async def prepared(root: Path) -> list[str]:
    """Two projects, whose secrets were sealed with the old key."""
    storage = FileSystemStorage(root)
    await storage.start()
    manager, ids = SecretManager(storage.secrets, Keyring(OLD_KEY)), []
    await manager.check_key()
    for _ in range(2):
        project = await storage.projects.create(builders.project_draft(), builders.credential())
        ids.append(project.id)
        for name, value in (("TOKEN", "one"), ("TOKEN", "two"), ("OTHER", "three")):
            await manager.set_secret(project.id, name, value)
    await storage.stop()
    return ids


@pytest.mark.no_cover
@pytest.mark.parametrize("name", sorted(SECRET_OPERATIONS.keys() - {"rotate key"}))
async def test_a_crash_leaves_the_secrets_as_they_were_or_as_they_should_be(
    root: Path, tmp_path: Path, prepared: list[str], name: str
) -> None:
    project_id, other_id = prepared
    directory = root / project_id / ".secrets"
    if name == "adopt secrets":
        (directory / "manifest.json").unlink()
    if name == "set first secret":
        for path in directory.iterdir():
            path.unlink()
    before = await opened(root, project_id)
    before_other = await opened(root, other_id)

    last = await run_crashes(root, tmp_path / "crashes", name, project_id, project_id)

    assert last > STEPS.get(name, 12)
    whole = tmp_path / "crashes" / str(last)
    after = await opened(whole, project_id)
    await assert_no_alarm(whole, project_id, adopted=True)
    for number in range(1, last):
        folder = tmp_path / "crashes" / str(number)
        assert await opened(folder, project_id) in (before, after), f"step {number}"
        assert await opened(folder, other_id) == before_other
        await assert_no_alarm(folder, project_id, adopted=name != "adopt secrets")
        storage = FileSystemStorage(folder)
        await storage.start()
        found = await opened(folder, project_id)
        assert found in (before, after), f"step {number}"
        if found == before:
            await SECRET_OPERATIONS[name](storage, project_id, "")
        assert await opened(folder, project_id) == after
        await storage.stop()
        assert leftovers(folder) == [], f"step {number}"
        await assert_no_alarm(folder, project_id, adopted=True)


async def test_a_rotation_killed_at_any_step_is_resumed(root: Path, tmp_path: Path, prepared: list[str]) -> None:
    before = [await opened(root, project_id) for project_id in prepared]
    last = await run_crashes(root, tmp_path / "crashes", "rotate key", prepared[0], prepared[0])
    assert last > 30
    resumed_at = set()
    for number in range(1, last + 1):
        folder = tmp_path / "crashes" / str(number)
        storage = FileSystemStorage(folder)
        assert [await opened(folder, project_id) for project_id in prepared] == before
        await storage.start()
        await SecretManager(storage.secrets, BOTH_KEYS).check_key()
        done = await rotate_encryption_key(storage.secrets, BOTH_KEYS, True, lambda _: None)
        assert done.faults == ()
        resumed_at.add(done.sealed_anew)
        await SecretManager(storage.secrets, Keyring(NEW_KEY)).check_key()
        with pytest.raises(WrongEncryptionKey):
            await SecretManager(storage.secrets, Keyring(OLD_KEY)).check_key()
        assert [await opened(folder, project_id, Keyring(NEW_KEY)) for project_id in prepared] == before
        assert leftovers(folder) == []
        text = json.dumps([json.loads(path.read_text()) for path in folder.rglob("manifest.json")])
        assert Keyring(OLD_KEY).current.key_id not in text
        await storage.stop()
    assert resumed_at == {0, 3, 6}


async def test_the_old_values_are_no_longer_taken_once_the_change_has_ended(root: Path, prepared: list[str]) -> None:
    path = root / prepared[0] / ".secrets" / "secrets.enc"
    old = path.read_bytes()
    storage = FileSystemStorage(root)
    manager = SecretManager(storage.secrets, BOTH_KEYS)
    await manager.set_secret(prepared[0], "TOKEN", "four")
    assert "replaces" not in json.loads(path.with_name("manifest.json").read_text())
    path.write_bytes(old)
    with pytest.raises(StoredDataDamaged):
        await manager.get_secret(prepared[0], "TOKEN")
