"""What somebody did to the stored files behind the server's back is refused by name, or read with a warning."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.errors import SecretVersionConflict, StoredDataDamaged
from cloutagent_server.service import secret_care
from cloutagent_server.service.cipher import Cipher, to_json
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.service_world import ENCRYPTION_KEY
from tests.unit.service.test_cipher import NODE_OPEN, NODE_SEAL, node

OTHER_KEY = "ff" * 32
Document = dict[str, Any]


@dataclass(frozen=True)
class Vault:
    """A folder with one project, and what keeps its secrets."""

    storage: FileSystemStorage
    root: Path
    project_id: str

    @property
    def values(self) -> Path:
        return self.root / self.project_id / ".secrets" / "secrets.enc"

    @property
    def manifest(self) -> Path:
        return self.values.with_name("manifest.json")

    def manager(self, *, production: bool = True, key: str = ENCRYPTION_KEY) -> SecretManager:
        return SecretManager(self.storage.secrets, Keyring(key), production)

    async def findings(self) -> list[tuple[str, str, bool]]:
        found = await secret_care.inspect(self.storage.secrets, Keyring(ENCRYPTION_KEY), self.project_id)
        return [(finding.location, finding.fault, finding.adoptable) for finding in found]

    async def adopt(self) -> list[str]:
        return list(await secret_care.adopt(self.storage.secrets, Keyring(ENCRYPTION_KEY), self.project_id))


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Vault]:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    yield Vault(storage, tmp_path / "projects", project.id)
    await storage.stop()


def edit(path: Path, change: Callable[[Document], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


async def refusal(manager: SecretManager, project_id: str, name: str) -> StoredDataDamaged:
    with pytest.raises(StoredDataDamaged) as caught:
        await manager.get_secret(project_id, name)
    return caught.value


async def named(vault: Vault, name: str = "TOKEN") -> str:
    """The fault that refuses a secret, once it is sure that the secret, and no other, is named, by `inspect` too."""
    fault = await refusal(vault.manager(), vault.project_id, name)
    assert fault.location == f"secret {name} of project {vault.project_id}"
    assert await vault.findings() == [(fault.location, fault.fault, False)]
    assert "hunter" not in fault.fault
    return fault.fault


@pytest.fixture
async def filled(vault: Vault) -> Vault:
    """The vault with the secret TOKEN in two versions, and OTHER."""
    manager = vault.manager()
    for name, value in (("TOKEN", "hunter-1"), ("TOKEN", "hunter-2"), ("OTHER", "hunter-3")):
        await manager.set_secret(vault.project_id, name, value)
    assert await vault.findings() == []
    return vault


async def test_a_value_moved_to_another_name(filled: Vault) -> None:
    edit(filled.values, lambda values: values.update(TOKEN=values["OTHER"]))
    assert await named(filled) == "the value is that of the secret OTHER: it was moved"
    assert await filled.manager().get_secret(filled.project_id, "OTHER") == "hunter-3"


async def test_two_values_exchanged(filled: Vault) -> None:
    edit(filled.values, lambda values: values.update(TOKEN=values["OTHER"], OTHER=values["TOKEN"]))
    for name in ("TOKEN", "OTHER"):
        assert "moved" in (await refusal(filled.manager(), filled.project_id, name)).fault


async def test_a_value_from_another_project(filled: Vault) -> None:
    other = await filled.storage.projects.create(builders.project_draft(), builders.credential())
    await filled.manager().set_secret(other.id, "TOKEN", "hunter-4")
    theirs = json.loads((filled.root / other.id / ".secrets" / "secrets.enc").read_text())
    edit(filled.values, lambda values: values.update(TOKEN=theirs["TOKEN"]))
    assert "altered, or is that of another project" in await named(filled)


async def test_both_files_from_another_project(filled: Vault) -> None:
    other = await filled.storage.projects.create(builders.project_draft(), builders.credential())
    directory = filled.root / other.id / ".secrets"
    for name in ("secrets.enc", "manifest.json"):
        (directory / name).write_bytes((filled.values.parent / name).read_bytes())
    fault = await refusal(filled.manager(), other.id, "TOKEN")
    assert (fault.location, fault.fault) == (str(directory / "manifest.json"), "projectId is another project's")
    edit(directory / "manifest.json", lambda manifest: manifest.update(projectId=other.id))
    fault = await refusal(filled.manager(), other.id, "TOKEN")
    assert fault.location == f"manifest of the secrets of project {other.id}"
    assert fault.fault == "it was altered: its authentication code does not fit its content"


@pytest.mark.parametrize("part", ["iv", "authTag", "encrypted"])
async def test_an_altered_value(filled: Vault, part: str) -> None:
    def flip(values: Document) -> None:
        sealed = json.loads(values["TOKEN"])
        sealed[part] = f"{int(sealed[part][0], 16) ^ 1:x}{sealed[part][1:]}"
        values["TOKEN"] = json.dumps(sealed)

    edit(filled.values, flip)
    assert "the value was altered" in await named(filled)


async def test_a_value_rolled_back_alone(filled: Vault) -> None:
    before = filled.values.read_bytes()
    await filled.manager().set_secret(filled.project_id, "TOKEN", "hunter-5")
    filled.values.write_bytes(before)
    assert await named(filled) == "it was rolled back from version 3 to version 2"


async def test_a_removed_value(filled: Vault) -> None:
    edit(filled.values, lambda values: values.pop("TOKEN"))
    assert await named(filled) == "its value was removed from secrets.enc"
    filled.values.unlink()
    assert await filled.manager().list_secrets(filled.project_id) == ["OTHER", "TOKEN"]
    assert len(await filled.findings()) == 2


async def test_a_truncated_file_is_named_and_keeps_its_bytes(filled: Vault) -> None:
    for path in (filled.values, filled.manifest):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fault = await refusal(filled.manager(), filled.project_id, "TOKEN")
        assert fault.location == str(path)
        assert await filled.findings() == [(str(path), fault.fault, False)]
        with pytest.raises(StoredDataDamaged):
            await filled.manager().set_secret(filled.project_id, "NEW", "x")
        assert path.read_bytes() == whole[: len(whole) // 2]
        path.write_bytes(whole)


async def test_a_truncated_value(vault: Vault) -> None:
    sealed = Cipher(ENCRYPTION_KEY).seal("hunter")
    cut = builders.sealed_secret(iv=sealed.iv, auth_tag=sealed.auth_tag[:-2], encrypted=sealed.encrypted)
    vault.values.write_text(json.dumps({"TOKEN": to_json(cut)}))
    fault = await refusal(vault.manager(production=False), vault.project_id, "TOKEN")
    assert "it is cut off" in fault.fault


MANIFEST_EDITS: dict[str, Callable[[Document], object]] = {
    "revision": lambda manifest: manifest.update(revision=1),
    "entry removed": lambda manifest: manifest["secrets"].pop("OTHER"),
    "entry renamed": lambda manifest: manifest["secrets"].update(NEW=manifest["secrets"].pop("OTHER")),
    "digest": lambda manifest: manifest["secrets"]["TOKEN"].update(digest="00" * 32),
    "version": lambda manifest: manifest["secrets"]["TOKEN"].update(version=9),
    "time": lambda manifest: manifest["secrets"]["TOKEN"].update(updatedAt="2020-01-01T00:00:00.000Z"),
    "history": lambda manifest: manifest["secrets"]["TOKEN"]["history"][0].update(version=7),
    "history value": lambda manifest: manifest["secrets"]["TOKEN"]["history"][0].update(encrypted="00"),
    "mac": lambda manifest: manifest.update(mac="00" * 32),
}


@pytest.mark.parametrize("change", MANIFEST_EDITS.values(), ids=MANIFEST_EDITS)
async def test_an_altered_manifest(filled: Vault, change: Callable[[Document], object]) -> None:
    edit(filled.manifest, change)
    manager, project_id = filled.manager(production=False), filled.project_id
    for call in (
        manager.get_secret(project_id, "TOKEN"),
        manager.list_secrets(project_id),
        manager.set_secret(project_id, "TOKEN", "x"),
        manager.delete_secret(project_id, "TOKEN"),
        manager.head(project_id),
        filled.adopt(),
    ):
        with pytest.raises(StoredDataDamaged, match="damaged") as caught:
            await call
        assert caught.value.location == f"manifest of the secrets of project {project_id}"
        assert "it was altered" in caught.value.fault


async def test_a_forged_note_of_a_change_under_way_is_no_way_in(filled: Vault) -> None:
    """The manifest that a change replaces counts only if it was signed, too."""
    edit(filled.values, lambda values: values.pop("OTHER"))

    def forge(manifest: Document) -> None:
        replaced = json.loads(json.dumps({key: manifest[key] for key in manifest if key != "schemaVersion"}))
        replaced["secrets"].pop("OTHER")
        manifest["replaces"] = replaced

    edit(filled.manifest, forge)
    fault = await refusal(filled.manager(), filled.project_id, "TOKEN")
    assert "it was altered" in fault.fault


async def test_another_key_is_named_by_its_id(filled: Vault) -> None:
    fault = await refusal(filled.manager(key=OTHER_KEY), filled.project_id, "TOKEN")
    assert Cipher(ENCRYPTION_KEY).key_id in fault.fault
    assert "neither ENCRYPTION_KEY nor in ENCRYPTION_KEYS_RETIRED" in fault.fault
    assert ENCRYPTION_KEY not in fault.fault


async def test_a_rollback_of_both_files_shows_in_the_head(filled: Vault) -> None:
    manager = filled.manager()
    before, files = await manager.head(filled.project_id), (filled.values.read_bytes(), filled.manifest.read_bytes())
    await manager.set_secret(filled.project_id, "TOKEN", "hunter-6")
    after = await manager.head(filled.project_id)
    assert before is not None and after is not None
    assert after.revision == before.revision + 1 and after.digest != before.digest
    filled.values.write_bytes(files[0])
    filled.manifest.write_bytes(files[1])
    assert await manager.get_secret(filled.project_id, "TOKEN") == "hunter-2"
    assert await manager.head(filled.project_id) == before


async def test_a_damaged_secret_is_mended_by_setting_or_deleting_it(filled: Vault) -> None:
    manager = filled.manager()
    edit(filled.values, lambda values: values.update(TOKEN=values["OTHER"]))
    with pytest.raises(SecretVersionConflict):
        await manager.set_secret(filled.project_id, "TOKEN", "x", expected_version=1)
    assert (await manager.set_secret(filled.project_id, "TOKEN", "hunter-7", expected_version=2)).version == 3
    assert await filled.findings() == []
    versions = await manager.list_versions(filled.project_id, "TOKEN")
    assert versions is not None and [kept.version for kept in versions] == [3, 1]
    edit(filled.values, lambda values: values.pop("OTHER"))
    assert await manager.delete_secret(filled.project_id, "OTHER")
    assert await filled.findings() == []


async def test_an_earlier_version_is_restored_over_a_damaged_one(filled: Vault) -> None:
    edit(filled.values, lambda values: values.pop("TOKEN"))
    with pytest.raises(StoredDataDamaged):
        await filled.manager().restore_version(filled.project_id, "TOKEN", 2)
    assert (await filled.manager().restore_version(filled.project_id, "TOKEN", 1)).version == 3
    assert await filled.manager().get_secret(filled.project_id, "TOKEN") == "hunter-1"


async def test_a_name_that_node_added_is_read_with_a_warning_and_adopted(
    filled: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    (text,) = node(NODE_SEAL, [ENCRYPTION_KEY, ["from node"]])
    edit(filled.values, lambda values: values.update(NODE=text))
    lenient, strict, project_id = filled.manager(production=False), filled.manager(), filled.project_id
    with caplog.at_level(logging.WARNING):
        assert await lenient.get_secret(project_id, "NODE") == "from node"
    assert [record.message for record in caplog.records] == ["secret_not_adopted"]
    metadata = await lenient.get_metadata(project_id, "NODE")
    assert metadata is not None and (metadata.version, metadata.created_at, metadata.updated_at) == (1, None, None)
    versions = await lenient.list_versions(project_id, "NODE")
    assert versions is not None and [(kept.version, kept.created_at) for kept in versions] == [(1, None)]
    for call in (
        strict.get_secret(project_id, "NODE"),
        strict.get_metadata(project_id, "NODE"),
        strict.set_secret(project_id, "NODE", "x"),
        strict.delete_secret(project_id, "NODE"),
    ):
        with pytest.raises(StoredDataDamaged) as caught:
            await call
        assert caught.value.location == f"secret NODE of project {project_id}"
        assert "doctor --adopt" in caught.value.fault
    assert await strict.get_secret(project_id, "TOKEN") == "hunter-2"
    assert [adoptable for _, _, adoptable in await filled.findings()] == [True]
    assert await filled.adopt() == ["NODE"]
    assert await filled.adopt() == []
    assert await strict.get_secret(project_id, "NODE") == "from node"
    assert await filled.findings() == []


async def test_a_file_without_a_manifest(filled: Vault) -> None:
    filled.manifest.unlink()
    lenient, strict, project_id = filled.manager(production=False), filled.manager(), filled.project_id
    assert await lenient.get_secret(project_id, "TOKEN") == "hunter-2"
    assert await lenient.list_secrets(project_id) == ["OTHER", "TOKEN"]
    assert await lenient.head(project_id) is None
    for call in (strict.get_secret(project_id, "TOKEN"), strict.list_secrets(project_id)):
        with pytest.raises(StoredDataDamaged) as caught:
            await call
        assert caught.value.location == f"secrets.enc of project {project_id}"
    assert await filled.adopt() == ["OTHER", "TOKEN"]
    assert await strict.get_secret(project_id, "TOKEN") == "hunter-2"


async def test_setting_and_deleting_what_was_not_adopted(filled: Vault) -> None:
    filled.manifest.unlink()
    manager, project_id = filled.manager(production=False), filled.project_id
    assert (await manager.set_secret(project_id, "TOKEN", "new", expected_version=1)).version == 2
    assert await manager.get_secret(project_id, "TOKEN", 1) == "hunter-2"
    assert await manager.get_secret(project_id, "OTHER") == "hunter-3"
    assert await manager.delete_secret(project_id, "OTHER")
    assert await filled.findings() == []


async def test_an_added_value_that_no_key_opens_is_not_adopted(filled: Vault) -> None:
    edit(filled.values, lambda values: values.update(STRANGE=to_json(Cipher(OTHER_KEY).seal("x"))))
    assert await filled.adopt() == []
    ((location, fault, adoptable),) = await filled.findings()
    assert (location, adoptable) == (f"secret STRANGE of project {filled.project_id}", False)
    assert "another key" in fault
    with pytest.raises(StoredDataDamaged):
        await filled.manager(production=False).get_secret(filled.project_id, "STRANGE")
    assert await filled.manager(production=False).delete_secret(filled.project_id, "STRANGE")


async def test_node_reads_what_lies_on_disk(filled: Vault) -> None:
    values = json.loads(filled.values.read_text())
    assert node(NODE_OPEN, [ENCRYPTION_KEY, [values["TOKEN"], values["OTHER"]]]) == ["hunter-2", "hunter-3"]


async def test_no_plain_value_lies_on_disk(filled: Vault) -> None:
    for path in filled.root.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"hunter" not in content and b"hunter".hex().encode() not in content


async def test_a_key_that_opens_nothing_of_a_folder_without_a_key_check_is_refused(filled: Vault) -> None:
    with pytest.raises(WrongEncryptionKey, match="ENCRYPTION_KEYS_RETIRED"):
        await filled.manager(key=OTHER_KEY).check_key()
    assert await filled.storage.secrets.read_key_check() is None
    await filled.manager().check_key()
    assert await filled.storage.secrets.read_key_check() is not None


async def test_concurrent_writers_and_readers_meet_no_false_alarm(vault: Vault) -> None:
    manager, done = vault.manager(), asyncio.Event()
    await manager.set_secret(vault.project_id, "TOKEN", "0")

    async def read() -> None:
        last = 0
        while not done.is_set():
            value = await manager.get_secret(vault.project_id, "TOKEN")
            assert value is not None and int(value) >= last
            last = int(value)

    readers = [asyncio.create_task(read()) for _ in range(4)]
    for number in range(1, 30):
        await manager.set_secret(vault.project_id, "TOKEN", str(number))
        assert await manager.get_secret(vault.project_id, "TOKEN") == str(number)
    done.set()
    await asyncio.gather(*readers)
