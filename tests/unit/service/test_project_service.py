"""Projects: created with a key, changed, listed, deleted with all that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cloutagent_server.domain.errors import InvalidRequest, ProjectNotFound, RevisionConflict
from cloutagent_server.domain.execution import ExecutionOptions, Status
from cloutagent_server.domain.identifiers import is_id, new_id
from cloutagent_server.domain.project import Limits, Project, ProjectChanges
from cloutagent_server.service.auth import KEY_PATTERN, Principal
from cloutagent_server.service.requests import ExecutionRequest
from tests.support.service_world import DEADLINE_SECONDS, World, agent, draft, make_world

ADMIN_KEY = "an-admin-key-of-some-length"


@pytest.fixture
def world() -> Iterator[World]:
    made = make_world()
    yield made
    made.authenticator.close()


def fields_of(fault: pytest.ExceptionInfo[InvalidRequest]) -> list[str]:
    return [violation.field for violation in fault.value.violations]


async def test_create_stores_the_project_and_gives_its_key_once(world: World) -> None:
    project, key = await world.projects.create(draft(name="mine", description="d"))
    assert is_id(project.id) and is_id(project.agent.id) and project.id != project.agent.id
    assert (project.name, project.description, project.revision) == ("mine", "d", 1)
    assert project.created_at == project.updated_at
    assert KEY_PATTERN.fullmatch(key)
    assert await world.projects.get(project.id) == project
    assert await world.authenticator.validate_api_key(key) == project


async def test_create_names_every_fault_of_the_agent(world: World) -> None:
    faulty = agent(model="gpt-4", enabled_tools=("Read", "Bash"), system_prompt="{{")
    with pytest.raises(InvalidRequest) as caught:
        await world.projects.create(draft(agent=faulty))
    assert fields_of(caught) == ["agent.model", "agent.enabledTools", "agent.systemPrompt"]
    assert "Bash" in str(caught.value) and "'Read'" not in str(caught.value)
    assert (await world.storage.projects.list(10)).items == ()


async def test_a_system_prompt_may_name_what_is_given_later(world: World) -> None:
    project, _ = await world.projects.create(draft(agent=agent(system_prompt="{{who}} {{secret:LATER}}")))
    assert project.agent.system_prompt == "{{who}} {{secret:LATER}}"


async def test_what_does_not_exist_is_not_found(world: World) -> None:
    for call in (
        world.projects.get(new_id()),
        world.projects.delete(new_id()),
        world.projects.update(new_id(), lambda project: ProjectChanges()),
    ):
        with pytest.raises(ProjectNotFound):
            await call
    assert not await world.projects.exists(new_id())


async def test_update_sets_what_the_change_sets(world: World) -> None:
    project = await world.project()
    changed = await world.projects.update(project.id, lambda stored: ProjectChanges(name=stored.name + "!"))
    assert (changed.name, changed.agent, changed.limits) == ("demo!", project.agent, project.limits)
    assert changed.updated_at >= project.updated_at
    assert await world.projects.get(project.id) == changed


async def test_update_checks_the_agent(world: World) -> None:
    project = await world.project()
    with pytest.raises(InvalidRequest) as caught:
        await world.projects.update(project.id, lambda stored: ProjectChanges(agent=agent(model="gpt-4")))
    assert fields_of(caught) == ["project.agent.model"]
    assert await world.projects.get(project.id) == project


async def test_update_applies_again_what_another_change_overtook(world: World) -> None:
    project = await world.project()
    storage = world.storage.projects
    update = storage.update
    overtakes = 2

    async def overtaken(project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        nonlocal overtakes
        if overtakes:
            overtakes -= 1
            await update(project_id, ProjectChanges(description=f"other {overtakes}"))
        return await update(project_id, changes, expected_revision)

    storage.update = overtaken  # type: ignore[method-assign]
    changed = await world.projects.update(project.id, lambda stored: ProjectChanges(name=f"after {stored.description}"))
    assert (changed.name, changed.description) == ("after other 0", "other 0")


async def test_update_gives_up_when_it_is_overtaken_again_and_again(world: World) -> None:
    project = await world.project()
    attempts = 0

    async def overtaken(project_id: str, changes: ProjectChanges, expected_revision: int | None = None) -> Project:
        nonlocal attempts
        attempts += 1
        raise RevisionConflict("overtaken")

    world.storage.projects.update = overtaken  # type: ignore[method-assign]
    with pytest.raises(RevisionConflict):
        await world.projects.update(project.id, lambda stored: ProjectChanges(name="new"))
    assert 1 < attempts < 50


async def test_forty_changes_at_once_come_one_after_the_other(world: World) -> None:
    project = await world.project()
    names = [f"name {number}" for number in range(40)]

    async def change(name: str) -> Project:
        return await world.projects.update(project.id, lambda stored: ProjectChanges(name=name))

    changed = await asyncio.gather(*map(change, names))
    assert sorted(one.name for one in changed) == sorted(names)
    assert (await world.projects.get(project.id)).revision == project.revision + 40


async def test_without_an_admin_key_every_key_lists_all_projects(world: World) -> None:
    projects = [await world.project() for _ in range(3)]
    page = await world.projects.list(Principal(projects[0], "key"), 10, None)
    assert {project.id for project in page.items} == {project.id for project in projects}


async def test_with_an_admin_key_a_projects_key_lists_its_own_and_the_admin_all() -> None:
    world = make_world(admin_key=ADMIN_KEY)
    projects = [await world.project() for _ in range(3)]
    own = await world.projects.list(Principal(projects[1], "key"), 10, None)
    assert own.items == (projects[1],) and own.next_page_token is None
    first = await world.projects.list(Principal(None, "admin"), 2, None)
    rest = await world.projects.list(Principal(None, "admin"), 2, first.next_page_token)
    assert {project.id for project in (*first.items, *rest.items)} == {project.id for project in projects}
    assert rest.next_page_token is None


async def test_delete_first_cancels_what_runs_and_waits(world: World) -> None:
    project = await world.project()
    executions = [await world.start(project, "hang") for _ in range(4)]
    await world.until(executions[0].id, lambda stored: stored.usage.total_tokens > 0)
    seen: list[Status] = []
    delete = world.storage.projects.delete

    async def look_then_delete(project_id: str) -> None:
        seen.extend([(await world.read(execution.id)).status for execution in executions])
        await delete(project_id)

    world.storage.projects.delete = look_then_delete  # type: ignore[method-assign]
    await asyncio.wait_for(world.projects.delete(project.id), DEADLINE_SECONDS)
    assert seen == [Status.CANCELLED] * 4
    assert world.engine.running == []
    assert not await world.projects.exists(project.id)
    assert await world.executions.find(executions[0].id) is None


async def test_delete_ends_what_was_started_in_the_moment_before_the_project_was_gone(world: World) -> None:
    project = await world.project()
    elsewhere = await world.start(await world.project(), "hang")
    await world.until(elsewhere.id, lambda stored: stored.usage.total_tokens > 0)
    delete = world.storage.projects.delete

    async def start_then_delete(project_id: str) -> None:
        late = await world.start(project, "hang")
        await world.until(late.id, lambda stored: stored.usage.total_tokens > 0)
        await delete(project_id)

    world.storage.projects.delete = start_then_delete  # type: ignore[method-assign]
    await asyncio.wait_for(world.projects.delete(project.id), DEADLINE_SECONDS)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while world.executions.running > 1:  # noqa: ASYNC110 - nothing is stored of it that tells
            await asyncio.sleep(0)
    assert world.engine.running == [elsewhere.id]
    assert (await world.executions.cancel(elsewhere.id)).status is Status.CANCELLED


async def test_a_timeout_above_the_operators_is_refused_and_lowered_where_it_is_stored(world: World) -> None:
    project, _ = await world.projects.create(draft(limits=Limits(timeout=700_000)))
    bounded = make_world(storage=world.storage, longest_timeout=600_000)
    with pytest.raises(InvalidRequest) as caught:
        await bounded.projects.create(draft(limits=Limits(timeout=600_001)))
    assert fields_of(caught) == ["limits.timeout"]
    assert "must be at most 600000" in str(caught.value)
    # What it has already does not keep the project from other changes.
    changed = Limits(max_tokens=5, timeout=700_000)
    await bounded.projects.update(project.id, lambda _: ProjectChanges(limits=changed))
    with pytest.raises(InvalidRequest) as caught:
        await bounded.projects.update(project.id, lambda _: ProjectChanges(limits=Limits(timeout=700_001)))
    assert fields_of(caught) == ["project.limits.timeout"]
    started, _ = await bounded.executions.start(ExecutionRequest(project.id, "hello"))
    assert started.limits == Limits(max_tokens=5, timeout=600_000)
    with pytest.raises(InvalidRequest) as caught:
        await bounded.executions.start(ExecutionRequest(project.id, "hello", ExecutionOptions(timeout=600_001)))
    assert fields_of(caught) == ["options.timeout"]
    await bounded.executions.finished(started.id)
    bounded.authenticator.close()
