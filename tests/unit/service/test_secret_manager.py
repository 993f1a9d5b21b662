"""SecretManager: the plan's test cases, and what the API promises beyond them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from cloutagent_server.domain.errors import InvalidRequest, ProjectNotFound, SecretLimitReached, StoredDataDamaged
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.secret import MAX_VALUE_BYTES, SealedSecret
from cloutagent_server.service import manifest
from cloutagent_server.service import secrets as secrets_module
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support.secret_changes import secrets_of
from tests.support.service_world import World, draft, make_world

OTHER_KEY = "ff" * 32


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
def secrets(world: World) -> SecretManager:
    return world.secrets


async def test_encrypt_produces_different_output_each_time(secrets: SecretManager) -> None:
    sealed = {await secrets.encrypt("same") for _ in range(20)}
    assert len(sealed) == 20
    assert len({json.loads(text)["iv"] for text in sealed}) == 20


async def test_different_plaintexts_produce_different_ciphertexts(secrets: SecretManager) -> None:
    one, other = json.loads(await secrets.encrypt("one")), json.loads(await secrets.encrypt("two"))
    assert one["encrypted"] != other["encrypted"]


async def test_encrypt_returns_the_contracts_format(secrets: SecretManager) -> None:
    document = json.loads(await secrets.encrypt("text"))
    assert sorted(document) == ["authTag", "encrypted", "iv"]
    assert [len(document["iv"]), len(document["authTag"]), len(document["encrypted"])] == [32, 32, 8]


@pytest.mark.parametrize("text", ["", "plain", "Grüße 🌍", "x" * MAX_VALUE_BYTES])
async def test_decrypt_recovers_original_plaintext(secrets: SecretManager, text: str) -> None:
    assert await secrets.decrypt(await secrets.encrypt(text)) == text
    assert await secrets.decrypt(await secrets.encrypt(text, b"here"), b"here") == text


async def test_decrypt_throws_on_invalid_auth_tag(secrets: SecretManager) -> None:
    document = json.loads(await secrets.encrypt("text"))
    document["authTag"] = "0" * 32
    with pytest.raises(InvalidRequest) as caught:
        await secrets.decrypt(json.dumps(document))
    assert [violation.field for violation in caught.value.violations] == ["ciphertext"]


async def test_decrypt_throws_on_tampered_ciphertext(secrets: SecretManager) -> None:
    document = json.loads(await secrets.encrypt("text"))
    document["encrypted"] = f"{int(document['encrypted'], 16) ^ 1:08x}"
    with pytest.raises(InvalidRequest):
        await secrets.decrypt(json.dumps(document))


async def test_decrypt_refuses_what_is_bound_elsewhere(secrets: SecretManager) -> None:
    with pytest.raises(InvalidRequest):
        await secrets.decrypt(await secrets.encrypt("text", b"project:a"), b"project:b")


async def test_an_error_of_decrypt_shows_nothing_of_the_input(secrets: SecretManager) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await secrets.decrypt("not-json-but-a-password")
    assert "password" not in str(caught.value)


async def test_set_secret_stores_the_value_sealed(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    await secrets.set_secret(project.id, "TOKEN", "s3cret-value")
    sealed = (await secrets_of(world.storage, project.id))["TOKEN"]
    assert isinstance(sealed, SealedSecret)
    assert "s3cret-value" not in repr(sealed)
    assert b"s3cret-value".hex() not in repr(sealed)


async def test_set_secret_stores_encrypted_secret_in_file_and_delete_secret_removes_it(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path)
    await storage.start()
    try:
        world = make_world(storage=storage)
        project = await world.project()
        file = tmp_path / project.id / ".secrets" / "secrets.enc"
        await world.secrets.set_secret(project.id, "TOKEN", "s3cret-value")
        assert b"s3cret-value" not in file.read_bytes()
        sealed = json.loads(file.read_text())["TOKEN"]
        assert json.loads(sealed).keys() == {"iv", "authTag", "encrypted"}
        assert await world.secrets.decrypt(sealed) == "s3cret-value"
        assert await world.secrets.get_secret(project.id, "TOKEN") == "s3cret-value"
        assert await world.secrets.delete_secret(project.id, "TOKEN")
        assert "TOKEN" not in json.loads(file.read_text())
    finally:
        await storage.stop()


async def test_get_secret_retrieves_and_decrypts(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    await secrets.set_secret(project.id, "TOKEN", "one")
    assert await secrets.get_secret(project.id, "TOKEN") == "one"
    await secrets.set_secret(project.id, "TOKEN", "two")
    assert await secrets.get_secret(project.id, "TOKEN") == "two"
    await secrets.set_secret(project.id, "EMPTY", "")
    assert await secrets.get_secret(project.id, "EMPTY") == ""


async def test_get_secret_gives_none_for_what_is_missing(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    assert await secrets.get_secret(project.id, "TOKEN") is None
    assert await secrets.get_secret(new_id(), "TOKEN") is None


async def test_list_secrets_returns_secret_names_only(world: World, secrets: SecretManager) -> None:
    project, other = await world.project(), await world.project()
    for name in ("zeta", "Alpha", "beta_2"):
        await secrets.set_secret(project.id, name, "hidden")
    await secrets.set_secret(other.id, "OTHERS", "hidden")
    assert await secrets.list_secrets(project.id) == ["Alpha", "beta_2", "zeta"]
    assert await secrets.list_secrets(new_id()) == []


async def test_delete_secret_removes_it(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    await secrets.set_secret(project.id, "A", "one")
    await secrets.set_secret(project.id, "B", "two")
    assert await secrets.delete_secret(project.id, "A") is True
    assert await secrets.delete_secret(project.id, "A") is False
    assert await secrets.delete_secret(new_id(), "A") is False
    assert await secrets.list_secrets(project.id) == ["B"]
    assert await secrets.get_secret(project.id, "B") == "two"


async def test_a_secret_needs_its_project(secrets: SecretManager) -> None:
    with pytest.raises(ProjectNotFound):
        await secrets.set_secret(new_id(), "TOKEN", "value")


@pytest.mark.parametrize("name", ["", "1st", "with-dash", "with space", "ä", "a" * 129, "a\n", "../a"])
async def test_a_faulty_name_is_refused(world: World, secrets: SecretManager, name: str) -> None:
    project = await world.project()
    with pytest.raises(InvalidRequest) as caught:
        await secrets.set_secret(project.id, name, "value")
    assert [violation.field for violation in caught.value.violations] == ["name"]
    assert await secrets.list_secrets(project.id) == []


async def test_size_counts_in_bytes_and_all_faults_are_told_at_once(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    with pytest.raises(InvalidRequest) as caught:
        await secrets.set_secret(project.id, "1st", "ü" * (MAX_VALUE_BYTES // 2 + 1))
    assert [violation.field for violation in caught.value.violations] == ["name", "value"]
    await secrets.set_secret(project.id, "n" * 128, "ü" * (MAX_VALUE_BYTES // 2))


async def test_secrets_sealed_with_another_key_are_refused_with_its_id(world: World, secrets: SecretManager) -> None:
    project = await world.project()
    stranger = SecretManager(world.storage.secrets, Keyring(OTHER_KEY))
    await stranger.set_secret(project.id, "TOKEN", "value")
    with pytest.raises(StoredDataDamaged) as caught:
        await secrets.get_secret(project.id, "TOKEN")
    assert caught.value.location == f"manifest of the secrets of project {project.id}"
    assert Keyring(OTHER_KEY).current.key_id in caught.value.fault
    assert "neither ENCRYPTION_KEY nor in ENCRYPTION_KEYS_RETIRED" in caught.value.fault
    assert project.id not in caught.value.message


async def test_the_key_that_sealed_the_storage_is_accepted_again(world: World, secrets: SecretManager) -> None:
    await secrets.check_key()
    await secrets.check_key()
    noted = await world.storage.secrets.read_key_check()
    assert noted is not None


async def test_another_key_is_refused_from_the_first_start_on(world: World, secrets: SecretManager) -> None:
    await secrets.check_key()
    with pytest.raises(WrongEncryptionKey):
        await SecretManager(world.storage.secrets, Keyring(OTHER_KEY)).check_key()
    await secrets.check_key()


async def test_of_two_servers_that_start_at_once_the_first_key_wins(world: World, secrets: SecretManager) -> None:
    class Late:
        """A storage that looks empty until something is put."""

        def __init__(self) -> None:
            self.asked = False

        def __getattr__(self, name: str) -> object:
            return getattr(world.storage.secrets, name)

        async def read_key_check(self) -> SealedSecret | None:
            asked, self.asked = self.asked, True
            return await world.storage.secrets.read_key_check() if asked else None

    await secrets.check_key()
    with pytest.raises(WrongEncryptionKey):
        await SecretManager(Late(), Keyring(OTHER_KEY)).check_key()  # type: ignore[arg-type]


async def test_a_secret_that_is_set_again_after_its_deletion_goes_on_counting(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    world = make_world(storage=storage)
    project, _ = await world.projects.create(draft())
    for value in "abc":
        await world.secrets.set_secret(project.id, "TOKEN", value)
    assert await world.secrets.delete_secret(project.id, "TOKEN")
    await world.secrets.set_secret(project.id, "OTHER", "between")
    assert await world.secrets.list_secrets(project.id) == ["OTHER"]
    assert await world.secrets.get_metadata(project.id, "TOKEN") is None
    again = await world.secrets.set_secret(project.id, "TOKEN", "d", expected_version=0)
    assert again.version == 4
    versions = await world.secrets.list_versions(project.id, "TOKEN")
    assert versions is not None and [version.version for version in versions] == [4], "the values are gone"
    assert (await storage.secrets.read(project.id)).deleted == {}
    path = tmp_path / "projects" / project.id / ".secrets" / "manifest.json"
    await world.secrets.delete_secret(project.id, "TOKEN")
    document = json.loads(path.read_bytes())
    assert document["deleted"] == [{"name": "TOKEN", "version": 4}]
    path.write_text(json.dumps(document | {"deleted": [{"name": "TOKEN", "version": 1}]}))
    with pytest.raises(StoredDataDamaged, match="damaged") as caught:
        await world.secrets.set_secret(project.id, "TOKEN", "e")
    assert "altered" in caught.value.fault
    world.authenticator.close()
    await storage.stop()


async def test_of_too_many_deleted_names_the_first_deleted_are_forgotten(
    world: World, secrets: SecretManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "KEPT_DELETIONS", 2)
    project, _ = await world.projects.create(draft())
    for name in "CBA":
        await secrets.set_secret(project.id, name, "x")
        await secrets.delete_secret(project.id, name)
    assert list((await world.storage.secrets.read(project.id)).deleted.items()) == [("B", 1), ("A", 1)]
    assert [(await secrets.set_secret(project.id, name, "y")).version for name in "ABC"] == [2, 2, 1]


def _texts_reachable_from(*roots: object) -> set[str]:
    """Every text that these objects keep alive; code and modules are left out."""
    seen: set[int] = set()
    texts: set[str] = set()
    waiting = list(roots)
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(found))
        if isinstance(found, (str, bytes)):
            texts.add(found if isinstance(found, str) else found.decode(errors="replace"))
        waiting.extend(gc.get_referents(found))
    return texts


async def test_no_plain_value_is_kept_once_a_call_is_over(world: World, secrets: SecretManager) -> None:
    project, _ = await world.projects.create(draft())
    plain = [f"plain-{number}-{new_id()}" for number in range(3)]
    await secrets.set_secret(project.id, "TOKEN", plain[0])
    await secrets.set_secret(project.id, "TOKEN", plain[1])
    assert await secrets.get_secret(project.id, "TOKEN") == plain[1]
    assert await secrets.get_secrets(project.id, ["TOKEN"]) == {"TOKEN": plain[1]}
    await secrets.restore_version(project.id, "TOKEN", 1)
    assert await secrets.decrypt(await secrets.encrypt(plain[2])) == plain[2]
    kept = _texts_reachable_from(secrets, world.storage, world.executions)
    assert project.id in kept, "the walk sees what is kept"
    for value in plain:
        assert not any(value in text for text in kept)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda sealed: replace(sealed, encrypted="00" * (len(sealed.encrypted) // 2)), "was altered"),
        (lambda sealed: replace(sealed, encrypted=sealed.encrypted[:-2]), "was altered"),
        (None, "neither ENCRYPTION_KEY nor in ENCRYPTION_KEYS_RETIRED"),
    ],
    ids=["altered", "truncated", "wrong key"],
)
async def test_what_was_done_to_a_stored_value_is_named(
    world: World, secrets: SecretManager, damage: Callable[[SealedSecret], SealedSecret] | None, fault: str
) -> None:
    project, _ = await world.projects.create(draft())
    await secrets.set_secret(project.id, "TOKEN", "plain")
    reader = secrets
    if damage is None:
        reader = SecretManager(world.storage.secrets, Keyring(OTHER_KEY))
    else:
        stored = world.storage.secrets._records.projects[project.id]  # type: ignore[attr-defined]
        stored.secrets = replace(stored.secrets, values={"TOKEN": damage(stored.secrets.values["TOKEN"])})
    with pytest.raises(StoredDataDamaged) as caught:
        await reader.get_secret(project.id, "TOKEN")
    assert fault in caught.value.fault
    assert "plain" not in caught.value.fault


async def test_a_project_has_so_many_secrets_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that it has can be changed, and one that is deleted makes room."""
    project_id = (await world.projects.create(draft()))[0].id
    monkeypatch.setattr(secrets_module, "MAX_SECRETS", 2)
    for name in ("A", "B"):
        await world.secrets.set_secret(project_id, name, "value")
    with pytest.raises(SecretLimitReached, match="at most 2 names: delete one first"):
        await world.secrets.set_secret(project_id, "C", "value")
    await world.secrets.set_secret(project_id, "A", "another")
    assert await world.secrets.delete_secret(project_id, "B")
    await world.secrets.set_secret(project_id, "C", "value")
    monkeypatch.setattr(secrets_module, "MAX_SECRETS", 1)
    await world.secrets.set_secret(project_id, "C", "another")
    assert await world.secrets.get_secret(project_id, "C") == "another"


async def test_the_versions_that_are_kept_are_so_long_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret can be replaced all the same: then fewer of its versions are kept."""
    project_id = (await world.projects.create(draft()))[0].id
    monkeypatch.setattr(secrets_module, "MAX_KEPT_BYTES", 100)
    for text in ("a" * 30, "b" * 30, "c" * 30, "d" * 30):
        await world.secrets.set_secret(project_id, "A", text)
    versions = await world.secrets.list_versions(project_id, "A")
    assert versions is not None
    assert [version.version for version in versions] == [4, 3, 2]
    await world.secrets.set_secret(project_id, "A", "e" * 90)
    assert await world.secrets.get_secret(project_id, "A") == "e" * 90
    with pytest.raises(SecretLimitReached, match="at most 100 bytes"):
        await world.secrets.set_secret(project_id, "B", "b" * 11)
    with pytest.raises(SecretLimitReached):
        await world.secrets.set_secret(project_id, "A", "f" * 101)
    assert await world.secrets.get_secret(project_id, "A") == "e" * 90
    assert await world.secrets.delete_secret(project_id, "A")
    await world.secrets.set_secret(project_id, "B", "b" * 100)
