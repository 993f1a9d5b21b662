"""Promises of `ProjectStorage`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import InvalidRequest, ProjectNotFound, RevisionConflict
from cloutagent_server.domain.identifiers import is_id, new_id
from cloutagent_server.domain.mcp import HttpServer, StdioServer
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.base import Storage
from tests.support import builders
from tests.support.key_owner import owner_of
from tests.support.secret_changes import put_secret, secrets_of

_ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
NOT_IDENTIFIERS = ["", "..", "../../etc", "x", ".index", "0" * 32, f"{{{_ID}}}", f"{_ID}\n", _ID.upper()]


async def create_many(storage: Storage, count: int) -> list[Project]:
    return [
        await storage.projects.create(builders.project_draft(name=f"p{number}"), builders.credential())
        for number in range(count)
    ]


async def list_all(storage: Storage, page_size: int) -> list[Project]:
    found: list[Project] = []
    token = None
    while True:
        page = await storage.projects.list(page_size, token)
        assert len(page.items) <= page_size
        found += page.items
        token = page.next_page_token
        if token is None:
            return found
        assert page.items


async def test_create_gives_an_id_times_and_revision_1(storage: Storage) -> None:
    before = timestamps.now()
    draft = builders.project_draft()
    project = await storage.projects.create(draft, builders.credential())
    assert is_id(project.id)
    assert before <= project.created_at == project.updated_at <= timestamps.now()
    assert project.revision == 1
    assert (project.name, project.description) == (draft.name, draft.description)
    assert (project.agent, project.limits) == (draft.agent, draft.limits)


async def test_mcp_servers_are_kept(storage: Storage) -> None:
    servers = {
        "local": StdioServer("git-mcp", ("--quiet", ""), {"TOKEN": "{{secret:TOKEN}}", "EMPTY": ""}),
        "far": HttpServer("https://tools.example/mcp", {"Authorization": "Bearer {{secret:TOKEN}}"}),
    }
    draft = builders.project_draft(agent=builders.agent_config(mcp_servers=servers))
    project = await storage.projects.create(draft, builders.credential())
    found = await storage.projects.read(project.id)
    assert found is not None
    assert found.agent.mcp_servers == servers


async def test_read_gives_what_was_created(storage: Storage) -> None:
    draft = builders.project_draft(
        description=None,
        agent=builders.agent_config(temperature=1.0, enabled_tools=(), system_prompt='"\\\n\t\x00 漢'),
        limits=builders.limits(max_cost=Decimal("0.000001")),
    )
    project = await storage.projects.create(draft, builders.credential())
    assert await storage.projects.read(project.id) == project


async def test_read_gives_none_for_a_missing_project(storage: Storage) -> None:
    assert await storage.projects.read(new_id()) is None


@pytest.mark.parametrize("identifier", NOT_IDENTIFIERS)
async def test_what_is_not_an_identifier_names_no_project(storage: Storage, project: Project, identifier: str) -> None:
    assert await storage.projects.read(identifier) is None
    assert not await storage.projects.exists(identifier)
    await storage.projects.delete(identifier)
    with pytest.raises(ProjectNotFound):
        await storage.projects.update(identifier, ProjectChanges(name="new"))
    assert await storage.projects.read(project.id) == project


async def test_update_sets_only_the_given_fields(storage: Storage, project: Project) -> None:
    updated = await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert updated == replace(project, name="new", updated_at=updated.updated_at, revision=2)
    assert updated.updated_at >= project.updated_at
    assert await storage.projects.read(project.id) == updated


async def test_update_sets_every_field(storage: Storage, project: Project) -> None:
    agent = builders.agent_config(name="Writer")
    limits = builders.limits(max_tokens=1)
    changes = ProjectChanges(name="new", description="other", agent=agent, limits=limits)
    updated = await storage.projects.update(project.id, changes)
    assert (updated.name, updated.description, updated.agent, updated.limits) == ("new", "other", agent, limits)
    assert await storage.projects.read(project.id) == updated


async def test_update_removes_the_description(storage: Storage, project: Project) -> None:
    assert (await storage.projects.update(project.id, ProjectChanges(description=None))).description is None


async def test_update_with_the_stored_revision(storage: Storage, project: Project) -> None:
    updated = await storage.projects.update(project.id, ProjectChanges(name="new"), expected_revision=1)
    assert updated.revision == 2


@pytest.mark.parametrize("expected", [0, 2, 99])
async def test_update_with_another_revision_changes_nothing(storage: Storage, project: Project, expected: int) -> None:
    with pytest.raises(RevisionConflict):
        await storage.projects.update(project.id, ProjectChanges(name="new"), expected_revision=expected)
    assert await storage.projects.read(project.id) == project


async def test_update_of_a_missing_project(storage: Storage) -> None:
    with pytest.raises(ProjectNotFound):
        await storage.projects.update(new_id(), ProjectChanges(name="new"))


async def test_of_concurrent_updates_with_one_revision_one_wins(storage: Storage, project: Project) -> None:
    results = await asyncio.gather(
        *(storage.projects.update(project.id, ProjectChanges(name=f"n{n}"), expected_revision=1) for n in range(8)),
        return_exceptions=True,
    )
    winners = [result for result in results if isinstance(result, Project)]
    assert len(winners) == 1
    assert sum(isinstance(result, RevisionConflict) for result in results) == 7
    assert await storage.projects.read(project.id) == winners[0]


async def test_concurrent_updates_of_different_fields_lose_nothing(storage: Storage, project: Project) -> None:
    await asyncio.gather(
        storage.projects.update(project.id, ProjectChanges(name="new")),
        storage.projects.update(project.id, ProjectChanges(description="new")),
        storage.projects.update(project.id, ProjectChanges(limits=builders.limits(timeout=1234))),
    )
    updated = await storage.projects.read(project.id)
    assert updated is not None
    assert (updated.name, updated.description, updated.limits.timeout) == ("new", "new", 1234)
    assert updated.revision == 4


async def test_delete_removes_the_project_and_all_that_is_its(storage: Storage) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    await storage.executions.append(builders.texts(execution.id, 3))

    await storage.projects.delete(project.id)

    assert await storage.projects.read(project.id) is None
    assert not await storage.projects.exists(project.id)
    assert await storage.projects.find_key(credential.digest) is None
    assert (await storage.projects.list(10)).items == ()
    assert await secrets_of(storage, project.id) == {}
    assert await storage.executions.read(execution.id) is None
    assert (await storage.executions.list(project.id, 10)).items == ()
    assert await storage.executions.list_unfinished() == ()


async def test_delete_leaves_other_projects_alone(storage: Storage) -> None:
    first, second = await create_many(storage, 2)
    execution = await storage.executions.create(builders.execution(second.id))
    await storage.projects.delete(first.id)
    assert (await storage.projects.list(10)).items == (second,)
    assert await storage.executions.read(execution.id) == execution


async def test_delete_of_a_missing_project_is_no_error(storage: Storage, project: Project) -> None:
    await storage.projects.delete(new_id())
    await storage.projects.delete(project.id)
    await storage.projects.delete(project.id)


async def test_exists(storage: Storage, project: Project) -> None:
    assert await storage.projects.exists(project.id) is True
    assert await storage.projects.exists(new_id()) is False


async def test_find_key_gives_the_owner(storage: Storage) -> None:
    credentials = [builders.credential() for _ in range(3)]
    projects = [await storage.projects.create(builders.project_draft(), credential) for credential in credentials]
    for project, credential in zip(projects, credentials, strict=True):
        assert await owner_of(storage, credential) == project.id


async def test_find_key_survives_an_update(storage: Storage) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert await owner_of(storage, credential) == project.id


async def test_deleting_a_project_frees_only_its_own_key(storage: Storage) -> None:
    """A digest leads to the project that had it last."""
    credential = builders.credential()
    first = await storage.projects.create(builders.project_draft(), credential)
    second = await storage.projects.create(builders.project_draft(), credential)
    await storage.projects.delete(first.id)
    assert await owner_of(storage, credential) == second.id
    await storage.projects.delete(second.id)
    assert await storage.projects.find_key(credential.digest) is None


@pytest.mark.parametrize("digest", ["", "ab" * 32, "..", "../keys", "AB" * 32, "ab/" + "ab" * 31])
async def test_find_key_gives_none_for_an_unknown_digest(storage: Storage, project: Project, digest: str) -> None:
    assert await storage.projects.find_key(digest) is None


async def test_concurrent_creates_are_all_kept(storage: Storage) -> None:
    credentials = [builders.credential() for _ in range(12)]
    projects = await asyncio.gather(*(storage.projects.create(builders.project_draft(), one) for one in credentials))
    assert len({project.id for project in projects}) == 12
    owners = await asyncio.gather(*(storage.projects.find_key(one.digest) for one in credentials))
    assert [owner.project.id for owner in owners if owner] == [project.id for project in projects]


async def test_an_empty_list(storage: Storage) -> None:
    page = await storage.projects.list(10)
    assert page.items == ()
    assert page.next_page_token is None


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 100])
async def test_list_gives_every_project_once_oldest_first(storage: Storage, page_size: int) -> None:
    projects = await create_many(storage, 6)
    found = await list_all(storage, page_size)
    assert [project.created_at for project in found] == sorted(project.created_at for project in projects)
    assert sorted(found, key=lambda project: project.id) == sorted(projects, key=lambda project: project.id)


async def test_list_ends_without_a_token_when_the_last_page_is_full(storage: Storage) -> None:
    await create_many(storage, 2)
    assert (await storage.projects.list(2)).next_page_token is None


async def test_list_gives_stored_projects_once_while_others_come_and_go(storage: Storage) -> None:
    projects = await create_many(storage, 6)
    first = await storage.projects.list(2)
    staying = {project.id for project in projects[2:]}
    for project in first.items:
        await storage.projects.delete(project.id)
        staying.discard(project.id)
    await create_many(storage, 2)
    found = [project.id for project in first.items]
    token = first.next_page_token
    while token is not None:
        page = await storage.projects.list(2, token)
        found += [project.id for project in page.items]
        token = page.next_page_token
    assert len(found) == len(set(found))
    assert staying <= set(found)


async def test_list_passes_over_a_place_that_was_deleted(storage: Storage) -> None:
    projects = await list_all_after_creating(storage, 4)
    page = await storage.projects.list(2)
    await storage.projects.delete(projects[2].id)
    rest = await storage.projects.list(2, page.next_page_token)
    assert rest.items == (projects[3],)
    assert rest.next_page_token is None


async def list_all_after_creating(storage: Storage, count: int) -> list[Project]:
    await create_many(storage, count)
    return await list_all(storage, count)


@pytest.mark.parametrize("token", ["", "x", "!", "MTIz", "cHJvamVjdHM6MTIz", "é", "cHJvamVjdHM6", "=" * 5])
async def test_list_refuses_a_token_it_did_not_issue(storage: Storage, token: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await storage.projects.list(10, token)
    assert caught.value.violations[0].field == "pageToken"


async def test_list_refuses_a_token_of_another_list(storage: Storage, project: Project) -> None:
    for _ in range(2):
        await storage.executions.create(builders.execution(project.id))
    token = (await storage.executions.list(project.id, 1)).next_page_token
    assert token is not None
    with pytest.raises(InvalidRequest):
        await storage.projects.list(10, token)
