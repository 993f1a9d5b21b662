"""Promises of `SecretStorage`."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from cloutagent_server.domain.errors import ProjectNotFound, RevisionConflict, SecretNotFound
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.domain.secret import SecretRecord
from cloutagent_server.storage.base import Storage
from tests.support import builders
from tests.support.secret_changes import put_secret, remove_secret, secrets_of, with_secret

MISSING = "0f0e0d0c-0b0a-4908-8706-050403020100"


async def test_a_project_has_no_secrets_at_first(storage: Storage, project: Project) -> None:
    assert await secrets_of(storage, project.id) == {}


async def test_a_missing_project_has_no_secrets(storage: Storage) -> None:
    assert await secrets_of(storage, new_id()) == {}
    assert await secrets_of(storage, "../x") == {}


async def test_put_stores_by_name(storage: Storage, project: Project) -> None:
    first, second = builders.sealed_secret(), builders.sealed_secret(encrypted="")
    await put_secret(storage, project.id, "FIRST", first)
    await put_secret(storage, project.id, "_second2", second)
    assert await secrets_of(storage, project.id) == {"FIRST": first, "_second2": second}


async def test_put_replaces_the_secret_of_that_name(storage: Storage, project: Project) -> None:
    other, new = builders.sealed_secret(), builders.sealed_secret()
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    await put_secret(storage, project.id, "OTHER", other)
    await put_secret(storage, project.id, "TOKEN", new)
    assert await secrets_of(storage, project.id) == {"TOKEN": new, "OTHER": other}


async def test_secrets_belong_to_one_project(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    assert await secrets_of(storage, other.id) == {}
    assert not await remove_secret(storage, other.id, "TOKEN")


@pytest.mark.parametrize("project_id", [MISSING, "..", "", "x"])
async def test_put_without_the_project(storage: Storage, project_id: str) -> None:
    with pytest.raises(ProjectNotFound):
        await put_secret(storage, project_id, "TOKEN", builders.sealed_secret())
    assert await secrets_of(storage, project_id) == {}


async def test_put_after_the_project_was_deleted(storage: Storage, project: Project) -> None:
    await storage.projects.delete(project.id)
    with pytest.raises(ProjectNotFound):
        await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    assert not await storage.projects.exists(project.id)


async def test_remove(storage: Storage, project: Project) -> None:
    kept = builders.sealed_secret()
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    await put_secret(storage, project.id, "KEPT", kept)
    assert await remove_secret(storage, project.id, "TOKEN") is True
    assert await secrets_of(storage, project.id) == {"KEPT": kept}
    assert await remove_secret(storage, project.id, "TOKEN") is False
    assert await remove_secret(storage, project.id, "KEPT") is True
    assert await secrets_of(storage, project.id) == {}


@pytest.mark.parametrize("project_id", [MISSING, "..", ""])
async def test_remove_without_the_project(storage: Storage, project_id: str) -> None:
    assert await remove_secret(storage, project_id, "TOKEN") is False


async def test_concurrent_changes_lose_nothing(storage: Storage, project: Project) -> None:
    secrets = {f"NAME_{number}": builders.sealed_secret() for number in range(20)}
    for name in ("OLD_1", "OLD_2"):
        await put_secret(storage, project.id, name, builders.sealed_secret())
    await asyncio.gather(
        *(put_secret(storage, project.id, name, sealed) for name, sealed in secrets.items()),
        remove_secret(storage, project.id, "OLD_1"),
        remove_secret(storage, project.id, "OLD_2"),
    )
    assert await secrets_of(storage, project.id) == secrets


async def test_what_was_read_does_not_change_later(storage: Storage, project: Project) -> None:
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    before = await secrets_of(storage, project.id)
    await remove_secret(storage, project.id, "TOKEN")
    assert list(before) == ["TOKEN"]


async def test_the_key_check_is_what_was_put_first(storage: Storage) -> None:
    assert await storage.secrets.read_key_check() is None
    first = builders.sealed_secret()
    await storage.secrets.put_key_check(first)
    await storage.secrets.put_key_check(builders.sealed_secret())
    assert await storage.secrets.read_key_check() == first


async def test_of_concurrent_key_checks_one_stays(storage: Storage) -> None:
    checks = [builders.sealed_secret() for _ in range(6)]
    await asyncio.gather(*map(storage.secrets.put_key_check, checks))
    standing = await storage.secrets.read_key_check()
    assert standing in checks
    assert await storage.secrets.read_key_check() == standing


async def test_the_key_check_is_replaced_by_whoever_knows_what_stands(storage: Storage) -> None:
    first, second = builders.sealed_secret(), builders.sealed_secret()
    await storage.secrets.put_key_check(second, replaces=first)
    assert await storage.secrets.read_key_check() is None
    await storage.secrets.put_key_check(first)
    await storage.secrets.put_key_check(second, replaces=second)
    assert await storage.secrets.read_key_check() == first
    await storage.secrets.put_key_check(second, replaces=first)
    assert await storage.secrets.read_key_check() == second


async def test_values_and_manifest_are_read_as_they_were_put(storage: Storage, project: Project) -> None:
    record = SecretRecord()
    for number in range(12):
        stands, sealed = await storage.secrets.read(project.id), builders.sealed_secret()
        await put_secret(storage, project.id, "TOKEN", sealed)
        record = await storage.secrets.read(project.id)
        assert record == with_secret(stands, project.id, "TOKEN", sealed)
        assert (record.revision, record.mismatches()) == (number + 1, 0)
    assert [earlier.version for earlier in record.entries["TOKEN"].history] == list(range(11, 2, -1))


async def test_a_change_sees_what_stands_and_may_decline(storage: Storage, project: Project) -> None:
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    before = await storage.secrets.read(project.id)
    seen: list[SecretRecord] = []
    assert await storage.secrets.update(project.id, seen.append) == before
    assert seen == [before]

    def refuse(_: SecretRecord) -> SecretRecord:
        raise SecretNotFound("TOKEN")

    with pytest.raises(SecretNotFound):
        await storage.secrets.update(project.id, refuse)
    assert await storage.secrets.read(project.id) == before


async def test_a_change_of_another_revision_is_refused(storage: Storage, project: Project) -> None:
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    before = await storage.secrets.read(project.id)
    await put_secret(storage, project.id, "OTHER", builders.sealed_secret())
    stands = await storage.secrets.read(project.id)
    late = with_secret(before, project.id, "LATE", builders.sealed_secret())
    for change in (late, before, SecretRecord(stands.values)):
        with pytest.raises(RevisionConflict):
            await storage.secrets.update(project.id, partial(_instead, change))
    assert await storage.secrets.read(project.id) == stands


async def test_owners_are_the_projects_with_secrets(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    assert list(await storage.secrets.list_owners()) == []
    for owner in (project, other):
        await put_secret(storage, owner.id, "TOKEN", builders.sealed_secret())
    assert set(await storage.secrets.list_owners()) == {project.id, other.id}
    await storage.projects.delete(other.id)
    assert list(await storage.secrets.list_owners()) == [project.id]


def _instead(new: SecretRecord, _: SecretRecord) -> SecretRecord:
    return new
