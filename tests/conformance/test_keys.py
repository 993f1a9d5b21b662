"""Promises of `ProjectStorage` about API keys."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.base import KeyOwner, Storage
from tests.conformance.test_projects import NOT_IDENTIFIERS
from tests.support import builders


async def test_a_project_is_created_with_one_key_named_default(storage: Storage) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    (key,) = await storage.projects.read_keys(project.id)
    assert (key.name, key.credential, key.created_at, key.expires_at) == (
        "default",
        credential,
        project.created_at,
        None,
    )
    assert await storage.projects.find_key(credential.digest) == KeyOwner(project, key)


async def test_keys_change_in_one_step(storage: Storage, project: Project) -> None:
    (first,) = await storage.projects.read_keys(project.id)
    second, third = builders.api_key(), builders.api_key(name="漢", expires_at=builders.at(5))
    assert await storage.projects.change_keys(project.id, lambda keys: (third, *keys, second)) == (third, first, second)
    assert await storage.projects.read_keys(project.id) == (third, first, second)
    retiring = replace(second, expires_at=builders.at(1), in_grace=True)
    await storage.projects.change_keys(project.id, lambda _: (retiring,))
    assert await storage.projects.find_key(first.credential.digest) is None
    assert await storage.projects.find_key(third.credential.digest) is None
    assert await storage.projects.find_key(second.credential.digest) == KeyOwner(project, retiring)
    assert await storage.projects.read(project.id) == project


async def test_a_project_may_be_without_keys(storage: Storage, project: Project) -> None:
    assert await storage.projects.change_keys(project.id, lambda _: ()) == ()
    assert await storage.projects.read_keys(project.id) == ()
    renamed = await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert renamed.name == "new"
    key = builders.api_key()
    await storage.projects.change_keys(project.id, lambda _: (key,))
    assert await storage.projects.find_key(key.credential.digest) == KeyOwner(renamed, key)


async def test_a_change_that_raises_changes_nothing(storage: Storage, project: Project) -> None:
    before = await storage.projects.read_keys(project.id)

    def refuse(keys: ApiKeys) -> ApiKeys:
        raise ProjectNotFound("as an example")

    with pytest.raises(ProjectNotFound, match="does not exist"):
        await storage.projects.change_keys(project.id, refuse)
    assert await storage.projects.read_keys(project.id) == before


async def test_concurrent_changes_lose_nothing(storage: Storage, project: Project) -> None:
    fresh = [builders.api_key() for _ in range(8)]
    await asyncio.gather(
        *(storage.projects.change_keys(project.id, lambda keys, key=key: (*keys, key)) for key in fresh),  # type: ignore[misc]
        storage.projects.update(project.id, ProjectChanges(name="new")),
    )
    keys = await storage.projects.read_keys(project.id)
    assert len(keys) == 9 and set(keys) >= set(fresh)
    updated = await storage.projects.read(project.id)
    assert updated is not None and (updated.name, updated.revision) == ("new", 2)


async def test_an_update_keeps_the_keys(storage: Storage, project: Project) -> None:
    keys = await storage.projects.change_keys(project.id, lambda keys: (*keys, builders.api_key()))
    await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert await storage.projects.read_keys(project.id) == keys


async def test_deleting_a_project_removes_all_its_keys(storage: Storage, project: Project) -> None:
    keys = await storage.projects.change_keys(project.id, lambda keys: (*keys, builders.api_key()))
    await storage.projects.note_key_uses(project.id, {keys[0].id: builders.at(0)})
    await storage.projects.delete(project.id)
    for key in keys:
        assert await storage.projects.find_key(key.credential.digest) is None
    assert await storage.projects.read_key_uses(project.id) == {}


@pytest.mark.parametrize("identifier", [*NOT_IDENTIFIERS, "6e0f0d0c-0b0a-4908-8706-050403020100"])
async def test_a_missing_project_has_no_keys(storage: Storage, identifier: str) -> None:
    with pytest.raises(ProjectNotFound):
        await storage.projects.read_keys(identifier)
    with pytest.raises(ProjectNotFound):
        await storage.projects.change_keys(identifier, lambda keys: keys)
    await storage.projects.note_key_uses(identifier, {new_id(): builders.at(0)})
    assert await storage.projects.read_key_uses(identifier) == {}


async def test_uses_are_noted_forward_and_for_present_keys_alone(storage: Storage, project: Project) -> None:
    second = builders.api_key()
    first, _ = await storage.projects.change_keys(project.id, lambda keys: (*keys, second))
    await storage.projects.note_key_uses(project.id, {first.id: builders.at(5), new_id(): builders.at(9)})
    await storage.projects.note_key_uses(project.id, {first.id: builders.at(3), second.id: builders.at(4)})
    assert await storage.projects.read_key_uses(project.id) == {first.id: builders.at(5), second.id: builders.at(4)}
    await storage.projects.change_keys(project.id, lambda _: (second,))
    await storage.projects.note_key_uses(project.id, {second.id: builders.at(6)})
    assert await storage.projects.read_key_uses(project.id) == {second.id: builders.at(6)}
