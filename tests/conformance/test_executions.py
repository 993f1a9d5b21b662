"""Promises of `ExecutionStorage` about executions as records."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloutagent_server.domain.errors import (
    ExecutionNotFound,
    IdempotencyKeyReused,
    InvalidRequest,
    ProjectNotFound,
    RevisionConflict,
)
from cloutagent_server.domain.execution import Execution, ExecutionFilter, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage import selection
from cloutagent_server.storage.base import Page, Storage
from tests.support import builders

NOT_IDENTIFIERS = ["", "..", "../executions", "x", "0F0E0D0C-0B0A-4908-8706-050403020100"]


async def create_many(storage: Storage, project: Project, count: int) -> list[Execution]:
    """Executions one millisecond apart, oldest first."""
    return [
        await storage.executions.create(builders.execution(project.id, created_at=builders.at(number)))
        for number in range(count)
    ]


async def finish(storage: Storage, execution: Execution) -> Execution:
    return await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))


async def test_create_returns_and_stores_the_execution(storage: Storage, project: Project) -> None:
    execution = builders.execution(project.id, idempotency=builders.idempotency(key="Ä/../\n"), prompt="\x00 \u2028 漢")
    assert await storage.executions.create(execution) == execution
    assert await storage.executions.read(execution.id) == execution
    assert await storage.executions.read_events(execution.id, 0, 10) == ()


async def test_an_execution_keeps_what_it_was_created_with(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.projects.update(
        project.id, ProjectChanges(agent=builders.agent_config(name="Other"), limits=builders.limits(max_tokens=7))
    )
    assert await storage.executions.read(execution.id) == execution


@pytest.mark.parametrize("project_id", ["0f0e0d0c-0b0a-4908-8706-050403020100", "..", ""])
async def test_create_without_the_project(storage: Storage, project_id: str) -> None:
    execution = replace(builders.execution(), project_id=project_id)
    with pytest.raises(ProjectNotFound):
        await storage.executions.create(execution)
    assert await storage.executions.read(execution.id) is None
    assert await storage.executions.list_unfinished() == ()


async def test_create_refuses_an_id_that_is_taken(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.texts(execution.id, 2))
    with pytest.raises(RevisionConflict):
        await storage.executions.create(replace(execution, prompt="another"))
    kept = await storage.executions.read(execution.id)
    assert kept is not None
    assert (kept.prompt, kept.last_sequence) == (execution.prompt, 2)
    assert len(await storage.executions.list_unfinished()) == 1


@pytest.mark.parametrize("execution_id", NOT_IDENTIFIERS)
async def test_create_refuses_what_is_not_an_identifier(storage: Storage, project: Project, execution_id: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        await storage.executions.create(replace(builders.execution(project.id), id=execution_id))
    assert (await storage.executions.list(project.id, 10)).items == ()


@pytest.mark.parametrize("execution_id", ["0f0e0d0c-0b0a-4908-8706-050403020100", *NOT_IDENTIFIERS])
async def test_a_missing_execution(storage: Storage, execution_id: str) -> None:
    assert await storage.executions.read(execution_id) is None
    await storage.executions.delete(execution_id)
    await storage.executions.wait_for_events(execution_id, 0)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.read_events(execution_id, 0, 10)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.append([builders.event(execution_id, 1)])


async def test_one_idempotency_key_stands_for_one_execution(storage: Storage, project: Project) -> None:
    wanted = builders.idempotency()
    first = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    again = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    assert again == first
    assert (await storage.executions.list(project.id, 10)).items == (first,)
    assert await storage.executions.list_unfinished() == (first,)


async def test_an_idempotency_key_gives_the_execution_as_it_is_now(storage: Storage, project: Project) -> None:
    wanted = builders.idempotency()
    first = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    finished = await finish(storage, first)
    assert await storage.executions.create(builders.execution(project.id, idempotency=wanted)) == finished


async def test_an_idempotency_key_for_another_request(storage: Storage, project: Project) -> None:
    wanted = builders.idempotency()
    first = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    other = builders.execution(project.id, idempotency=replace(wanted, request_digest="cd" * 32))
    with pytest.raises(IdempotencyKeyReused) as caught:
        await storage.executions.create(other)
    assert caught.value.metadata["execution_id"] == first.id
    assert await storage.executions.read(other.id) is None


async def test_an_idempotency_key_belongs_to_its_project(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    wanted = builders.idempotency()
    first = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    second = await storage.executions.create(builders.execution(other.id, idempotency=wanted))
    assert first.id != second.id


async def test_an_idempotency_key_is_free_after_deletion(storage: Storage, project: Project) -> None:
    wanted = builders.idempotency()
    first = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    await storage.executions.delete(first.id)
    second = builders.execution(project.id, idempotency=replace(wanted, request_digest="cd" * 32))
    assert await storage.executions.create(second) == second


async def test_concurrent_creates_with_one_idempotency_key_create_one(storage: Storage, project: Project) -> None:
    wanted = builders.idempotency()
    created = await asyncio.gather(
        *(storage.executions.create(builders.execution(project.id, idempotency=wanted)) for _ in range(10))
    )
    assert len({execution.id for execution in created}) == 1
    assert (await storage.executions.list(project.id, 10)).items == (created[0],)


async def test_concurrent_creates_are_all_kept(storage: Storage, project: Project) -> None:
    wanted = [builders.execution(project.id, idempotency=builders.idempotency()) for _ in range(10)]
    await asyncio.gather(*map(storage.executions.create, wanted))
    page = await storage.executions.list(project.id, 100)
    assert {execution.id for execution in page.items} == {execution.id for execution in wanted}


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 100])
async def test_list_gives_every_execution_once_newest_first(storage: Storage, project: Project, page_size: int) -> None:
    executions = await create_many(storage, project, 6)
    found: list[Execution] = []
    token = None
    while True:
        page = await storage.executions.list(project.id, page_size, token)
        assert len(page.items) <= page_size
        found += page.items
        token = page.next_page_token
        if token is None:
            break
    assert found == executions[::-1]


async def test_list_orders_executions_of_one_millisecond_the_same_each_time(storage: Storage, project: Project) -> None:
    for _ in range(5):
        await storage.executions.create(builders.execution(project.id))
    whole = (await storage.executions.list(project.id, 10)).items
    first = await storage.executions.list(project.id, 3)
    rest = await storage.executions.list(project.id, 3, first.next_page_token)
    assert first.items + rest.items == whole


async def test_list_shows_the_present_state(storage: Storage, project: Project) -> None:
    execution, other = await create_many(storage, project, 2)
    finished = await finish(storage, execution)
    assert (await storage.executions.list(project.id, 10)).items == (other, finished)


async def test_list_is_of_one_project(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    executions = await create_many(storage, project, 2)
    assert (await storage.executions.list(other.id, 10)).items == ()
    assert (await storage.executions.list(project.id, 10)).items == tuple(executions[::-1])


@pytest.mark.parametrize("project_id", ["0f0e0d0c-0b0a-4908-8706-050403020100", "..", ""])
async def test_list_without_the_project(storage: Storage, project_id: str) -> None:
    page = await storage.executions.list(project_id, 10)
    assert (page.items, page.next_page_token) == ((), None)


@pytest.mark.parametrize("token", ["", "x", "MTIz", "cHJvamVjdHM6MTIz"])
async def test_list_refuses_a_token_it_did_not_issue(storage: Storage, project: Project, token: str) -> None:
    with pytest.raises(InvalidRequest):
        await storage.executions.list(project.id, 10, token)


async def test_list_refuses_a_token_of_another_project(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    await create_many(storage, project, 2)
    token = (await storage.executions.list(project.id, 1)).next_page_token
    with pytest.raises(InvalidRequest):
        await storage.executions.list(other.id, 1, token)


async def test_list_unfinished_gives_what_has_not_ended_oldest_first(storage: Storage, project: Project) -> None:
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    newest, ended, running, removed = await create_many(storage, project, 4)
    oldest = builders.execution(other.id, created_at=builders.at(0) - timedelta(hours=1))
    newest = replace(builders.execution(other.id), id=new_id(), created_at=builders.at(10_000))
    for execution in (newest, oldest):
        await storage.executions.create(execution)
    await finish(storage, ended)
    await storage.executions.delete(removed.id)
    running = await storage.executions.append(builders.events(running.id, [builders.queued(), builders.started()]))
    found = await storage.executions.list_unfinished()
    assert [execution.id for execution in found][:1] == [oldest.id]
    assert [execution.id for execution in found][2:] == [running.id, newest.id]
    assert running in found
    assert all(not execution.status.terminal for execution in found)
    assert len(found) == 4


@pytest.mark.parametrize("end", [builders.completed(), builders.failed(), builders.cancelled()])
async def test_an_ended_execution_is_not_unfinished(storage: Storage, project: Project, end: object) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    payloads = builders.payloads_of_a_run()[:-1]
    await storage.executions.append(builders.events(execution.id, payloads))
    assert [found.id for found in await storage.executions.list_unfinished()] == [execution.id]
    await storage.executions.append(builders.events(execution.id, [end], after=len(payloads)))  # type: ignore[list-item]
    assert await storage.executions.list_unfinished() == ()


async def test_delete_removes_the_execution_with_its_log(storage: Storage, project: Project) -> None:
    kept, removed = await create_many(storage, project, 2)
    await storage.executions.append(builders.texts(removed.id, 3))
    await storage.executions.delete(removed.id)
    assert await storage.executions.read(removed.id) is None
    assert (await storage.executions.list(project.id, 10)).items == (kept,)
    assert await storage.executions.list_unfinished() == (kept,)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.read_events(removed.id, 0, 10)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.append([builders.event(removed.id, 4)])
    await storage.executions.delete(removed.id)


async def test_the_log_goes_with_the_project(storage: Storage, project: Project) -> None:
    (execution,) = await create_many(storage, project, 1)
    await storage.executions.append(builders.texts(execution.id, 3))
    await storage.projects.delete(project.id)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.read_events(execution.id, 0, 10)
    with pytest.raises(ExecutionNotFound):
        await storage.executions.append([builders.event(execution.id, 4)])


async def test_the_whole_life_of_an_execution_is_in_its_record(storage: Storage, project: Project) -> None:
    (execution,) = await create_many(storage, project, 1)
    finished = await finish(storage, execution)
    assert finished == replace(
        execution,
        status=Status.COMPLETED,
        usage=builders.usage(),
        result="All good.",
        started_at=builders.at(3),
        finished_at=builders.at(11),
        duration=1500,
        last_sequence=11,
    )
    assert await storage.executions.read(execution.id) == finished


async def test_list_gives_those_that_pass_every_filter(storage: Storage, project: Project) -> None:
    made = []
    for number in range(6):
        labels = {"even": str(number % 2 == 0), "number": str(number)}
        execution = builders.execution(project.id, created_at=builders.at(number), labels=labels)
        made.append(await storage.executions.create(execution))
    await storage.executions.append(builders.events(made[2].id, [builders.queued(), builders.started()]))

    async def found(**fields: Any) -> list[int]:
        wanted = ExecutionFilter(**fields)
        numbers: list[int] = []
        token = None
        while True:
            page = await storage.executions.list(project.id, 2, token, wanted)
            assert len(page.items) <= 2
            numbers += [int(one.labels["number"]) for one in page.items]
            token = page.next_page_token
            if token is None:
                return numbers

    assert await found(labels=frozenset({("even", "True")})) == [4, 2, 0]
    assert await found(labels=frozenset({("even", "True"), ("number", "2")})) == [2]
    assert await found(labels=frozenset({("even", "")})) == []
    assert await found(statuses=frozenset({Status.RUNNING})) == [2]
    assert await found(statuses=frozenset({Status.RUNNING, Status.QUEUED})) == [5, 4, 3, 2, 1, 0]
    assert await found(created_after=builders.at(3)) == [5, 4, 3]
    assert await found(created_before=builders.at(3)) == [2, 1, 0]
    assert await found(created_after=builders.at(2), created_before=builders.at(4)) == [3, 2]
    assert await found(created_after=builders.at(3) + timedelta(microseconds=1)) == [5, 4]
    assert await found(created_before=builders.at(3) + timedelta(microseconds=1)) == [3, 2, 1, 0]
    assert await found(created_before=datetime(1, 1, 1, tzinfo=UTC)) == []


async def test_a_page_is_bounded_in_bytes_and_in_work(
    storage: Storage, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = [
        await storage.executions.create(
            builders.execution(project.id, created_at=builders.at(number), prompt="é" * 500_000)
        )
        for number in range(3)
    ]
    first = await storage.executions.list(project.id, 10)
    assert [one.id for one in first.items] == [large[2].id, large[1].id]
    rest = await storage.executions.list(project.id, 10, first.next_page_token)
    assert [one.id for one in rest.items] == [large[0].id] and rest.next_page_token is None
    monkeypatch.setattr(selection, "MAX_LOOKED_AT", 2)
    wanted = ExecutionFilter(created_before=builders.at(100), statuses=frozenset({Status.RUNNING}))
    empty = await storage.executions.list(project.id, 10, None, wanted)
    assert empty.items == () and empty.next_page_token is not None
    last = await storage.executions.list(project.id, 10, empty.next_page_token, wanted)
    assert last == Page((), None)


async def test_what_a_key_stands_for_is_found(storage: Storage, project: Project) -> None:
    made = await storage.executions.create(
        builders.execution(project.id, idempotency=builders.idempotency(key="key"), secret_names=("A", "B"))
    )
    assert await storage.executions.find_idempotent(project.id, "key") == made
    for project_id, key in ((project.id, "other"), (new_id(), "key"), ("../x", "key")):
        assert await storage.executions.find_idempotent(project_id, key) is None
    await storage.executions.delete(made.id)
    assert await storage.executions.find_idempotent(project.id, "key") is None
