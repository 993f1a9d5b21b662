"""API keys over time: every sequence of changes, uses and waiting, compared with a model; on a clock of our own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain.errors import ApiKeyLimitReached, ApiKeyNotFound, LastApiKey
from cloutagent_server.service import auth
from cloutagent_server.service.auth import Authenticator, Principal
from cloutagent_server.service.keys import KeyService
from cloutagent_server.storage.memory import MemoryStorage
from tests.support import builders
from tests.support.service_world import draft

ADMIN = Principal(None, "admin")


@dataclass
class Held:
    """A key of the model: what the caller holds of it."""

    id: str
    plain: str
    expires_at: datetime | None = None


@dataclass
class Model:
    """The keys that work, the default key first, and the time."""

    now: datetime = field(default_factory=lambda: builders.at(0))
    keys: list[Held] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def wait(self, milliseconds: int) -> None:
        """Time passes, and keys expire."""
        self.now += timedelta(milliseconds=milliseconds)
        for key in [key for key in self.keys if key.expires_at is not None and key.expires_at <= self.now]:
            self.drop(key)

    def drop(self, key: Held) -> None:
        """A key works no longer."""
        self.keys.remove(key)
        self.gone.append(key.plain)


numbers = st.integers(0, 3)
durations = st.sampled_from([0, 1, 5, 10])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.none() | st.integers(1, 12)),
        st.tuples(st.just("rotate"), st.tuples(numbers, durations)),
        st.tuples(st.just("revoke"), st.tuples(numbers, st.booleans())),
        st.tuples(st.just("wait"), durations),
    ),
    max_size=20,
)


async def _take(step: tuple[str, object], model: Model, service: KeyService, project_id: str) -> None:
    match step:
        case ("create", expiry):
            expires_at = None if expiry is None else model.now + timedelta(milliseconds=int(str(expiry)))
            key, plain = await service.create(project_id, "ci", expires_at)
            assert (key.name, key.created_at, key.expires_at) == ("ci", model.now, expires_at)
            model.keys.append(Held(key.id, plain, expires_at))
        case ("rotate", (int(number), int(grace))) if model.keys:
            old = model.keys[number % len(model.keys)]
            caller = Principal(builders.project(), old.id)
            new, plain = await service.rotate(project_id, None, timedelta(milliseconds=grace), caller)
            assert new.expires_at == old.expires_at
            model.keys[model.keys.index(old)] = Held(new.id, plain, old.expires_at)
            if grace:
                end = model.now + timedelta(milliseconds=grace)
                model.keys.append(Held(old.id, old.plain, min(end, old.expires_at or end)))
            else:
                model.gone.append(old.plain)
        case ("revoke", (int(number), bool(admin))) if model.keys:
            held = model.keys[number % len(model.keys)]
            caller = ADMIN if admin else Principal(builders.project(), held.id)
            if len(model.keys) == 1 and not admin:
                with pytest.raises(LastApiKey):
                    await service.revoke(project_id, held.id, caller)
            else:
                await service.revoke(project_id, held.id, caller)
                model.drop(held)
        case ("wait", int(milliseconds)):
            model.wait(milliseconds)


async def _run(taken: list[tuple[str, object]]) -> None:
    model = Model()
    storage = MemoryStorage()
    authenticators = [Authenticator(storage.projects, clock=lambda: model.now) for _ in range(2)]
    service = KeyService(storage.projects, authenticators[0], clock=lambda: model.now)
    plain = authenticators[0].generate_api_key()
    project = await storage.projects.create(draft(), await authenticators[0].credential_for(plain))
    (first,) = await storage.projects.read_keys(project.id)
    model.keys.append(Held(first.id, plain))
    for step in taken:
        await _take(step, model, service, project.id)
        listed, uses = await service.list(project.id)
        assert [(key.id, key.expires_at) for key in listed] == [(key.id, key.expires_at) for key in model.keys]
        for authenticator in authenticators:
            for held in model.keys:
                principal = await authenticator.authenticate(held.plain)
                assert principal == Principal(project, held.id)
            for dead in model.gone:
                assert await authenticator.authenticate(dead) is None
        assert all(uses.get(key.id, model.now) <= model.now for key in listed)
        assert (await authenticators[0].uses.read(project.id)).items() >= {key.id: model.now for key in listed}.items()
    for authenticator in authenticators:
        await authenticator.stop()


@settings(max_examples=40, deadline=None, database=None)
@given(steps)
def test_exactly_the_keys_of_the_model_work(taken: list[tuple[str, object]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "BCRYPT_COST", 4)
        asyncio.run(_run(taken))


@pytest.fixture
async def service(monkeypatch: pytest.MonkeyPatch) -> tuple[KeyService, str]:
    """A service with one project, whose key costs little."""
    monkeypatch.setattr(auth, "BCRYPT_COST", 4)
    storage = MemoryStorage()
    authenticator = Authenticator(storage.projects)
    project = await storage.projects.create(draft(), builders.credential())
    return KeyService(storage.projects, authenticator), project.id


async def test_a_key_is_kept_as_digest_and_hash_alone(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    key, plain = await keys.create(project_id, "ci", None)
    assert plain not in repr(key)
    assert key.credential.digest == auth.digest_of(plain)
    assert bcrypt.checkpw(plain.encode(), key.credential.hash.encode())


async def test_there_are_20_keys_at_most(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    for number in range(19):
        await keys.create(project_id, str(number), None)
    with pytest.raises(ApiKeyLimitReached):
        await keys.create(project_id, "one too many", None)
    with pytest.raises(ApiKeyLimitReached):
        await keys.rotate(project_id, None, timedelta(seconds=1), ADMIN)
    await keys.rotate(project_id, None, timedelta(), ADMIN)
    assert len((await keys.list(project_id))[0]) == 20


async def test_the_admin_rotates_the_default_key_unless_another_is_named(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    (default,), _ = await keys.list(project_id)
    other, _ = await keys.create(project_id, "other", None)
    rotated, _ = await keys.rotate(project_id, other.id, timedelta(), ADMIN)
    assert rotated.name == "other"
    rotated, _ = await keys.rotate(project_id, None, timedelta(), ADMIN)
    assert rotated.name == "default"
    with pytest.raises(ApiKeyNotFound):
        await keys.rotate(project_id, default.id, timedelta(), ADMIN)
