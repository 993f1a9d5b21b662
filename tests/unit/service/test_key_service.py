"""API keys over time: every sequence of changes, uses and waiting, compared with a model; on a clock of our own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import AccessDenied, ApiKeyInvalid, ApiKeyLimitReached, ApiKeyNotFound, LastApiKey
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
    in_grace: bool = False

    def outlived_by(self, expires_at: datetime | None) -> bool:
        """Whether a key with this expiry would work longer."""
        return self.expires_at is not None and (expires_at is None or expires_at > self.expires_at)


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
        st.tuples(st.just("create"), st.tuples(st.none() | numbers, st.none() | st.integers(1, 12))),
        st.tuples(st.just("rotate"), st.tuples(st.none() | numbers, numbers, durations)),
        st.tuples(st.just("revoke"), st.tuples(st.none() | numbers, numbers)),
        st.tuples(st.just("wait"), durations),
    ),
    max_size=20,
)


def _caller(number: object, model: Model) -> tuple[Held | None, Principal]:
    """The key with this number as the caller, or the admin."""
    if not isinstance(number, int) or not model.keys:
        return None, ADMIN
    held = model.keys[number % len(model.keys)]
    return held, Principal(builders.project(), held.id)


async def _take(step: tuple[str, object], model: Model, service: KeyService, project_id: str) -> None:
    match step:
        case ("create", (number, expiry)):
            expires_at = None if expiry is None else model.now + timedelta(milliseconds=int(str(expiry)))
            actor, caller = _caller(number, model)
            if actor is not None and (actor.in_grace or actor.outlived_by(expires_at)):
                with pytest.raises(AccessDenied):
                    await service.create(project_id, "ci", expires_at, caller)
                return
            key, plain = await service.create(project_id, "ci", expires_at, caller)
            assert (key.name, key.created_at, key.expires_at) == ("ci", model.now, expires_at)
            model.keys.append(Held(key.id, plain, expires_at))
        case ("rotate", (number, int(other), int(grace))) if model.keys:
            actor, caller = _caller(number, model)
            old = model.keys[other % len(model.keys)]
            if _is_refused(actor, old):
                with pytest.raises(AccessDenied):
                    await service.rotate(project_id, old.id, timedelta(milliseconds=grace), caller)
                return
            own = None if actor is old else old.id
            new, plain = await service.rotate(project_id, own, timedelta(milliseconds=grace), caller)
            assert new.expires_at == old.expires_at
            model.keys[model.keys.index(old)] = Held(new.id, plain, old.expires_at)
            if grace:
                end = model.now + timedelta(milliseconds=grace)
                model.keys.append(Held(old.id, old.plain, min(end, old.expires_at or end), in_grace=True))
            else:
                model.gone.append(old.plain)
        case ("revoke", (number, int(other))) if model.keys:
            actor, caller = _caller(number, model)
            held = model.keys[other % len(model.keys)]
            if _is_refused(actor, held):
                with pytest.raises(AccessDenied):
                    await service.revoke(project_id, held.id, caller)
            elif len(model.keys) == 1 and actor is not None:
                with pytest.raises(LastApiKey):
                    await service.revoke(project_id, held.id, caller)
            else:
                await service.revoke(project_id, held.id, caller)
                model.drop(held)
        case ("wait", int(milliseconds)):
            model.wait(milliseconds)


def _is_refused(actor: Held | None, other: Held) -> bool:
    """Whether this caller may not end this key."""
    return actor is not None and (actor.in_grace or (actor.expires_at is not None and actor is not other))


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
    key, plain = await keys.create(project_id, "ci", None, ADMIN)
    assert plain not in repr(key)
    assert key.credential.digest == auth.digest_of(plain)
    assert bcrypt.checkpw(plain.encode(), key.credential.hash.encode())


async def test_there_are_20_keys_at_most(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    for number in range(19):
        await keys.create(project_id, str(number), None, ADMIN)
    with pytest.raises(ApiKeyLimitReached):
        await keys.create(project_id, "one too many", None, ADMIN)
    with pytest.raises(ApiKeyLimitReached):
        await keys.rotate(project_id, None, timedelta(seconds=1), ADMIN)
    await keys.rotate(project_id, None, timedelta(), ADMIN)
    assert len((await keys.list(project_id))[0]) == 20


async def test_the_admin_rotates_the_default_key_unless_another_is_named(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    (default,), _ = await keys.list(project_id)
    other, _ = await keys.create(project_id, "other", None, ADMIN)
    rotated, _ = await keys.rotate(project_id, other.id, timedelta(), ADMIN)
    assert rotated.name == "other"
    rotated, _ = await keys.rotate(project_id, None, timedelta(), ADMIN)
    assert rotated.name == "default"
    with pytest.raises(ApiKeyNotFound):
        await keys.rotate(project_id, default.id, timedelta(), ADMIN)


async def test_a_key_that_was_revoked_since_the_call_came_manages_nothing(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    key, _ = await keys.create(project_id, "ci", None, ADMIN)
    late = Principal(builders.project(), key.id)
    await keys.revoke(project_id, key.id, ADMIN)
    (left,), _ = await keys.list(project_id)
    for attempt in (
        keys.create(project_id, "more", None, late),
        keys.rotate(project_id, None, timedelta(), late),
        keys.revoke(project_id, left.id, late),
    ):
        with pytest.raises(ApiKeyInvalid):
            await attempt
    assert (await keys.list(project_id))[0] == (left,)


async def test_the_refusals_say_what_to_do(service: tuple[KeyService, str]) -> None:
    keys, project_id = service
    end = timestamps.now() + timedelta(hours=1)
    short, _ = await keys.create(project_id, "short", end, ADMIN)
    caller = Principal(builders.project(), short.id)
    with pytest.raises(AccessDenied, match="must expire no later than itself"):
        await keys.create(project_id, "longer", end + timedelta(milliseconds=1), caller)
    await keys.create(project_id, "as long", end, caller)
    with pytest.raises(AccessDenied, match="no key but itself"):
        await keys.revoke(project_id, (await keys.list(project_id))[0][0].id, caller)
    await keys.rotate(project_id, None, timedelta(minutes=1), caller)
    with pytest.raises(AccessDenied, match="use the new key"):
        await keys.create(project_id, "shorter", end - timedelta(minutes=59, seconds=30), caller)
