"""Authenticator: the plan's test cases, what a look-up costs, and when a key stops working."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bcrypt
import pytest

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import KeyCredential, Project, ProjectChanges
from cloutagent_server.service import auth
from cloutagent_server.service.auth import KEY_PATTERN, Authenticator, digest_of
from cloutagent_server.storage.base import KeyOwner, ProjectStorage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.service_world import draft

ADMIN_KEY = "an-admin-key-of-some-length"


class Bcrypt:
    """Counts what bcrypt is asked to do and on which threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks = 0
        self.threads: set[int] = set()
        checkpw, hashpw = bcrypt.checkpw, bcrypt.hashpw

        def counted_check(password: bytes, hashed: bytes) -> bool:
            self.checks += 1
            self.threads.add(threading.get_ident())
            return checkpw(password, hashed)

        def noted_hash(password: bytes, salt: bytes) -> bytes:
            self.threads.add(threading.get_ident())
            return hashpw(password, salt)

        monkeypatch.setattr(bcrypt, "checkpw", counted_check)
        monkeypatch.setattr(bcrypt, "hashpw", noted_hash)


class Rekeyed:
    """A project storage in which one key's hash was replaced."""

    def __init__(self, inner: ProjectStorage, credential: KeyCredential) -> None:
        self._inner = inner
        self.credential = credential

    async def find_key(self, digest: str) -> KeyOwner | None:
        """The owner, with the replaced credential."""
        owner = await self._inner.find_key(digest)
        return None if owner is None else replace(owner, key=replace(owner.key, credential=self.credential))

    async def read(self, project_id: str) -> Project | None:
        """As it is."""
        return await self._inner.read(project_id)


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def authenticator(storage: MemoryStorage) -> Iterator[Authenticator]:
    made = Authenticator(storage.projects)
    yield made
    made.close()


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Bcrypt:
    return Bcrypt(monkeypatch)


@pytest.fixture
async def keyed(storage: MemoryStorage, authenticator: Authenticator) -> tuple[Project, str]:
    """A project and its key."""
    key = authenticator.generate_api_key()
    return await storage.projects.create(draft(), await authenticator.credential_for(key)), key


def test_generate_api_key_produces_valid_format(authenticator: Authenticator) -> None:
    keys = {authenticator.generate_api_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(KEY_PATTERN.fullmatch(key) for key in keys)
    assert all(key.startswith("cla_") and len(key) == 40 for key in keys)


async def test_hash_api_key_returns_bcrypt_hash_of_cost_10(authenticator: Authenticator) -> None:
    key = authenticator.generate_api_key()
    hashed = await authenticator.hash_api_key(key)
    assert hashed.startswith("$2b$10$")
    assert bcrypt.checkpw(key.encode(), hashed.encode())
    assert not bcrypt.checkpw(authenticator.generate_api_key().encode(), hashed.encode())
    assert await authenticator.hash_api_key(key) != hashed


async def test_credential_holds_no_key(authenticator: Authenticator) -> None:
    key = authenticator.generate_api_key()
    credential = await authenticator.credential_for(key)
    assert credential.digest == digest_of(key)
    assert key not in f"{credential.digest}{credential.hash}{credential!r}"
    assert credential.hash not in repr(credential)


async def test_validate_api_key_returns_project_for_valid_key(
    storage: MemoryStorage, authenticator: Authenticator, keyed: tuple[Project, str]
) -> None:
    project, key = keyed
    other_key = authenticator.generate_api_key()
    other = await storage.projects.create(draft(), await authenticator.credential_for(other_key))
    assert await authenticator.validate_api_key(key) == project
    assert await authenticator.validate_api_key(other_key) == other


async def test_validate_api_key_returns_null_for_invalid_key_without_bcrypt(
    authenticator: Authenticator, keyed: tuple[Project, str], hashing: Bcrypt
) -> None:
    _, key = keyed
    for wrong in (
        "",
        "cla_",
        key.removeprefix("cla_"),
        key.upper(),
        f" {key}",
        f"{key}\n",
        key[:-1],
        f"{key}0",
        "cla_not-a-uuid",
        "ü" * 40,
        "x" * 100_000,
        authenticator.generate_api_key(),
    ):
        assert await authenticator.validate_api_key(wrong) is None
        assert await authenticator.authenticate(wrong) is None
    assert hashing.checks == 0


async def test_a_confirmed_key_is_not_hashed_again(
    authenticator: Authenticator, keyed: tuple[Project, str], hashing: Bcrypt
) -> None:
    project, key = keyed
    for _ in range(5):
        assert await authenticator.validate_api_key(key) == project
    assert hashing.checks == 1


async def test_a_confirmation_ages(
    authenticator: Authenticator, keyed: tuple[Project, str], hashing: Bcrypt, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, key = keyed
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    await authenticator.validate_api_key(key)
    now += auth.CACHE_SECONDS - 1
    await authenticator.validate_api_key(key)
    assert hashing.checks == 1
    now += 2
    assert await authenticator.validate_api_key(key) == project
    assert hashing.checks == 2


async def test_the_cache_is_bounded(
    storage: MemoryStorage, authenticator: Authenticator, hashing: Bcrypt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CACHE_ENTRIES", 1)
    keys = [authenticator.generate_api_key() for _ in range(2)]
    for key in keys:
        await storage.projects.create(draft(), await authenticator.credential_for(key))
    for key in (keys[0], keys[1], keys[1], keys[0]):
        assert await authenticator.validate_api_key(key) is not None
    assert hashing.checks == 3


async def test_a_confirmation_dies_when_the_stored_hash_changes(
    storage: MemoryStorage, keyed: tuple[Project, str], authenticator: Authenticator, hashing: Bcrypt
) -> None:
    project, key = keyed
    owner = await storage.projects.find_key(digest_of(key))
    assert owner is not None
    rekeyed = Rekeyed(storage.projects, owner.key.credential)
    over = Authenticator(rekeyed)  # type: ignore[arg-type]
    try:
        assert await over.validate_api_key(key) == project
        rekeyed.credential = await authenticator.credential_for(authenticator.generate_api_key())
        rekeyed.credential = KeyCredential(digest_of(key), rekeyed.credential.hash)
        assert await over.validate_api_key(key) is None
        assert hashing.checks == 2
        rekeyed.credential = owner.key.credential
        assert await over.validate_api_key(key) == project
        assert hashing.checks == 3
    finally:
        over.close()


@pytest.mark.parametrize("change", [{"digest": "0" * 64}, {"hash": "no bcrypt hash"}])
async def test_a_credential_that_does_not_fit_confirms_nothing(
    storage: MemoryStorage, keyed: tuple[Project, str], change: dict[str, str]
) -> None:
    _, key = keyed
    owner = await storage.projects.find_key(digest_of(key))
    assert owner is not None
    fields = {"digest": owner.key.credential.digest, "hash": owner.key.credential.hash, **change}
    over = Authenticator(Rekeyed(storage.projects, KeyCredential(**fields)))  # type: ignore[arg-type]
    assert await over.validate_api_key(key) is None
    over.close()


async def test_a_key_dies_with_its_project(
    storage: MemoryStorage, authenticator: Authenticator, keyed: tuple[Project, str]
) -> None:
    project, key = keyed
    assert await authenticator.validate_api_key(key) == project
    await storage.projects.delete(project.id)
    assert await authenticator.validate_api_key(key) is None


async def test_a_key_sees_the_project_as_it_is_now(
    storage: MemoryStorage, authenticator: Authenticator, keyed: tuple[Project, str]
) -> None:
    project, key = keyed
    await authenticator.validate_api_key(key)
    await storage.projects.update(project.id, ProjectChanges(name="renamed"))
    found = await authenticator.validate_api_key(key)
    assert found is not None and found.name == "renamed"


async def test_the_loop_goes_on_while_bcrypt_works(
    authenticator: Authenticator, keyed: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that returns only once the loop has turned can only end when it does not block the loop."""
    project, key = keyed
    turned = threading.Event()
    checkpw = bcrypt.checkpw

    def check(password: bytes, hashed: bytes) -> bool:
        return turned.wait(10) and checkpw(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    validating = asyncio.ensure_future(authenticator.validate_api_key(key))
    for _ in range(10):
        await asyncio.sleep(0)
    turned.set()
    assert await validating == project


async def test_hashing_leaves_the_loops_thread_alone(
    authenticator: Authenticator, keyed: tuple[Project, str], hashing: Bcrypt
) -> None:
    await authenticator.validate_api_key(keyed[1])
    await authenticator.hash_api_key(keyed[1])
    assert hashing.threads and threading.get_ident() not in hashing.threads


async def test_authenticate_gives_the_project_and_what_stands_for_the_key(
    storage: MemoryStorage, authenticator: Authenticator, keyed: tuple[Project, str]
) -> None:
    project, key = keyed
    principal = await authenticator.authenticate(key)
    owner = await storage.projects.find_key(digest_of(key))
    assert principal is not None and owner is not None
    assert (principal.project, principal.key_id, principal.admin) == (project, owner.key.id, False)
    assert await authenticator.authenticate(f"cla_{new_id()}") is None


async def test_the_admin_key_is_the_admin_and_costs_no_bcrypt(storage: MemoryStorage, hashing: Bcrypt) -> None:
    authenticator = Authenticator(storage.projects, ADMIN_KEY)
    principal = await authenticator.authenticate(ADMIN_KEY)
    assert principal is not None
    assert (principal.project, principal.key_id, principal.admin) == (None, "admin", True)
    assert await authenticator.authenticate(ADMIN_KEY + "x") is None
    assert await authenticator.validate_api_key(ADMIN_KEY) is None
    assert hashing.checks == 0
    assert authenticator.has_admin


@pytest.mark.parametrize("unset", [None, ""])
async def test_without_an_admin_key_nobody_is_admin(storage: MemoryStorage, unset: str | None) -> None:
    authenticator = Authenticator(storage.projects, unset)
    assert not authenticator.has_admin
    assert await authenticator.authenticate("") is None


async def test_concurrent_first_uses_of_a_key_cost_one_bcrypt(
    authenticator: Authenticator, keyed: tuple[Project, str], hashing: Bcrypt
) -> None:
    project, key = keyed
    first = asyncio.ensure_future(authenticator.validate_api_key(key))
    others = asyncio.gather(*(authenticator.validate_api_key(key) for _ in range(50)))
    await asyncio.sleep(0)
    first.cancel()
    assert await others == [project] * 50
    assert hashing.checks == 1


async def test_an_expired_key_does_not_work_confirmed_or_not(storage: MemoryStorage, hashing: Bcrypt) -> None:
    now = builders.at(0)
    authenticator = Authenticator(storage.projects, clock=lambda: now)
    key = authenticator.generate_api_key()
    project = await storage.projects.create(draft(), await authenticator.credential_for(key))
    await storage.projects.change_keys(
        project.id, lambda keys: tuple(replace(one, expires_at=builders.at(10)) for one in keys)
    )
    now = builders.at(9)
    assert await authenticator.validate_api_key(key) == project
    now = builders.at(10)
    assert await authenticator.validate_api_key(key) is None
    assert hashing.checks == 1
    await authenticator.stop()


async def test_a_key_dies_at_once_in_every_process_on_the_folder(tmp_path: Path) -> None:
    """Two servers on one folder: what one revokes, the other refuses with the next call, its cache notwithstanding."""
    here, there = FileSystemStorage(tmp_path), FileSystemStorage(tmp_path)
    await here.start()
    await there.start()
    authenticators = [Authenticator(here.projects), Authenticator(there.projects)]
    keys = [authenticators[0].generate_api_key() for _ in range(2)]
    project = await here.projects.create(draft(), await authenticators[0].credential_for(keys[0]))
    second = builders.api_key(credential=await authenticators[0].credential_for(keys[1]))
    await here.projects.change_keys(project.id, lambda stored: (*stored, second))
    for key in keys:
        for authenticator in authenticators:
            assert await authenticator.validate_api_key(key) == project
    await here.projects.change_keys(project.id, lambda _: (second,))
    assert [await one.validate_api_key(keys[0]) for one in authenticators] == [None, None]
    assert [await one.validate_api_key(keys[1]) for one in authenticators] == [project, project]
    await here.projects.delete(project.id)
    assert [await one.validate_api_key(keys[1]) for one in authenticators] == [None, None]
    for authenticator in authenticators:
        await authenticator.stop()
    for storage in (here, there):
        await storage.stop()
