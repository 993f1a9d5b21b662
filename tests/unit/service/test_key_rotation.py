"""Rotation of the encryption key: everything is sealed anew, servers serve meanwhile, and it may be cut anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import InvalidRequest, StorageUnavailable
from cloutagent_server.service import secret_care
from cloutagent_server.service.cipher import Cipher, to_json
from cloutagent_server.service.key_rotation import Progress, rotate_encryption_key
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders

OLD, NEW = "01" * 32, "02" * 32
BOTH = Keyring(NEW, [OLD])


@pytest.fixture(params=["memory", "filesystem"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    backend: Storage = MemoryStorage() if request.param == "memory" else FileSystemStorage(tmp_path / "projects")
    await backend.start()
    yield backend
    await backend.stop()


def manager(storage: Storage, keyring: Keyring) -> SecretManager:
    return SecretManager(storage.secrets, keyring, adopted_only=True)


async def fill(storage: Storage, projects: int = 3) -> list[str]:
    """Projects, each with a secret A in three versions and a secret B, sealed with the old key."""
    old = manager(storage, Keyring(OLD))
    await old.check_key()
    ids = []
    for _ in range(projects):
        project = await storage.projects.create(builders.project_draft(), builders.credential())
        for version in ("1", "2", "3"):
            await old.set_secret(project.id, "A", f"a{version}")
        await old.set_secret(project.id, "B", "b")
        ids.append(project.id)
    return ids


async def rotate(storage: Storage, keyring: Keyring = BOTH) -> Progress:
    return await rotate_encryption_key(storage.secrets, keyring, True, lambda _: None)


async def assert_all_is_there(storage: Storage, ids: list[str], keyring: Keyring) -> None:
    for project_id in ids:
        for version in (1, 2, 3):
            assert await manager(storage, keyring).get_secret(project_id, "A", version) == f"a{version}"
        assert await manager(storage, keyring).get_secret(project_id, "B") == "b"
        assert await secret_care.inspect(storage.secrets, keyring, project_id) == []


async def test_the_retired_key_is_not_needed_afterwards(storage: Storage) -> None:
    ids = await fill(storage)
    seen: list[Progress] = []
    with pytest.raises(WrongEncryptionKey):
        await manager(storage, Keyring(NEW)).check_key()
    await manager(storage, BOTH).check_key()
    done = await rotate_encryption_key(storage.secrets, BOTH, True, seen.append)
    assert (done.projects, done.total, done.sealed_anew, done.faults) == (3, 3, 12, ())
    assert [progress.sealed_anew for progress in seen] == [4, 8, 12]
    await manager(storage, Keyring(NEW)).check_key()
    await assert_all_is_there(storage, ids, Keyring(NEW))
    with pytest.raises(WrongEncryptionKey):
        await manager(storage, Keyring(OLD)).check_key()
    assert (await rotate(storage, Keyring(NEW))).sealed_anew == 0


async def test_new_writes_use_the_new_key_and_old_ones_open(storage: Storage) -> None:
    (project_id,) = await fill(storage, 1)
    both = manager(storage, BOTH)
    metadata = await both.set_secret(project_id, "A", "a4")
    record = await storage.secrets.read(project_id)
    assert record.manifest is not None
    assert (metadata.version, record.entries["A"].key_id, record.manifest.key_id) == (4, *[Cipher(NEW).key_id] * 2)
    assert record.entries["B"].key_id == Cipher(OLD).key_id
    assert await both.get_secret(project_id, "A", 3) == "a3"
    assert await both.get_secret(project_id, "B") == "b"
    assert (await rotate(storage)).sealed_anew == 4


async def test_versions_and_times_stay_as_they_are(storage: Storage) -> None:
    (project_id,) = await fill(storage, 1)
    before = [await manager(storage, BOTH).list_versions(project_id, "A"), (await rotate(storage)).faults]
    assert before == [await manager(storage, Keyring(NEW)).list_versions(project_id, "A"), ()]


async def test_old_results_of_encrypt_open_while_the_key_is_kept(storage: Storage) -> None:
    sealed = await manager(storage, Keyring(OLD)).encrypt("text", b"project:x")
    assert await manager(storage, BOTH).decrypt(sealed, b"project:x") == "text"
    for keyring, context in ((BOTH, b"project:y"), (Keyring(NEW), b"project:x")):
        with pytest.raises(InvalidRequest):
            await manager(storage, keyring).decrypt(sealed, context)


async def test_keys_that_open_nothing_are_refused(storage: Storage) -> None:
    await fill(storage, 1)
    with pytest.raises(WrongEncryptionKey):
        await rotate(storage, Keyring(NEW, ["03" * 32]))


async def test_an_empty_storage_is_rotated(storage: Storage) -> None:
    assert await rotate(storage) == Progress(0, 0)
    await manager(storage, Keyring(NEW)).check_key()


async def test_servers_serve_meanwhile(storage: Storage) -> None:
    ids = await fill(storage, 6)
    server, done = manager(storage, BOTH), asyncio.Event()

    async def work(project_id: str) -> int:
        count = 0
        while not done.is_set() or count < 3:
            count += 1
            await server.set_secret(project_id, "C", str(count))
            assert await server.get_secret(project_id, "C") == str(count)
            assert await server.get_secret(project_id, "A", 2) == "a2"
            await asyncio.sleep(0)
        return count

    workers = [asyncio.create_task(work(project_id)) for project_id in ids]
    assert (await rotate(storage)).faults == ()
    done.set()
    counts = await asyncio.gather(*workers)
    await assert_all_is_there(storage, ids, Keyring(NEW))
    for project_id, count in zip(ids, counts, strict=True):
        assert await manager(storage, Keyring(NEW)).get_secret(project_id, "C") == str(count)


async def test_a_project_that_goes_meanwhile_is_passed_over(storage: Storage) -> None:
    ids = sorted(await fill(storage, 2))
    loop, deleting = asyncio.get_running_loop(), []

    def delete_the_other(progress: Progress) -> None:
        if progress.projects == 1:
            deleting.append(loop.create_task(storage.projects.delete(ids[1])))

    done = await rotate_encryption_key(storage.secrets, BOTH, True, delete_the_other)
    await asyncio.gather(*deleting)
    assert (done.projects, done.faults) == (2, ())


async def test_what_cannot_be_sealed_anew_keeps_the_retired_key_needed(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path)
    await storage.start()
    ids = sorted(await fill(storage, 3))
    values = tmp_path / ids[0] / ".secrets" / "secrets.enc"
    document = json.loads(values.read_text())
    values.write_text(json.dumps({**document, "B": document["A"], "STRANGE": to_json(Cipher(OLD).seal("x"))}))
    (tmp_path / ids[1] / ".secrets" / "manifest.json").write_text("{")
    (tmp_path / ids[2] / "metadata.json").write_text("{")
    done = await rotate(storage)
    faults = "\n".join(done.faults)
    assert len(done.faults) == 3
    assert f"secret B of project {ids[0]}: the value is that of the secret A: it was moved" in faults
    assert f"secret STRANGE of project {ids[0]}: no manifest vouches for it" in faults
    assert str(tmp_path / ids[1] / ".secrets" / "manifest.json") in faults
    assert done.sealed_anew == 3 + 4
    with pytest.raises(WrongEncryptionKey):
        await manager(storage, Keyring(NEW)).check_key()
    lenient = SecretManager(storage.secrets, BOTH)
    assert await lenient.delete_secret(ids[0], "B")
    (tmp_path / ids[1] / ".secrets" / "manifest.json").unlink()
    done = await rotate_encryption_key(storage.secrets, BOTH, False, lambda _: None)
    assert done.faults == ()
    await manager(storage, Keyring(NEW)).check_key()
    assert await SecretManager(storage.secrets, Keyring(NEW)).get_secret(ids[0], "STRANGE") == "x"
    assert await SecretManager(storage.secrets, Keyring(NEW)).get_secret(ids[1], "A") == "a3"


async def test_a_medium_that_refuses_ends_the_rotation_and_it_goes_on_later(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(storage)

    def full(progress: Progress) -> None:
        if progress.projects == 2:
            raise StorageUnavailable("disk full")

    with pytest.raises(StorageUnavailable):
        await rotate_encryption_key(storage.secrets, BOTH, True, full)
    await assert_all_is_there(storage, ids, BOTH)
    assert (await rotate(storage)).sealed_anew == 4
    await assert_all_is_there(storage, ids, Keyring(NEW))


async def test_a_version_sealed_with_a_key_that_is_gone_is_named(storage: Storage) -> None:
    (project_id,) = await fill(storage, 1)
    await manager(storage, BOTH).set_secret(project_id, "B", "b4")
    await storage.secrets.put_key_check(Cipher(NEW).seal("x"), replaces=await storage.secrets.read_key_check())
    done = await rotate(storage, Keyring(NEW))
    assert [fault.partition(":")[0] for fault in sorted(done.faults)] == [
        f"secret A of project {project_id}",
        f"secret B of project {project_id}",
    ]
    assert all(Cipher(OLD).key_id in fault for fault in done.faults)
    found = await secret_care.inspect(storage.secrets, Keyring(NEW), project_id)
    assert ["version 3 cannot be opened" in found[0].fault, len(found)] == [True, 4]
