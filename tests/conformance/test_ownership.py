"""Promises of `ExecutionStorage` about who answers for an execution, and about requests to cancel."""

from __future__ import annotations

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.base import Storage
from tests.support import builders


async def test_what_a_server_creates_is_its_own(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    assert list(await storage.executions.list_abandoned()) == [execution.id]
    assert await storage.executions.claim(execution.id) == execution


async def test_what_has_ended_is_nobodys(storage: Storage, project: Project) -> None:
    execution = await storage.executions.create(builders.execution(project.id))
    await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    assert list(await storage.executions.list_abandoned()) == []
    assert await storage.executions.claim(execution.id) is None


async def test_what_is_not_there_cannot_be_claimed(storage: Storage) -> None:
    for execution_id in (new_id(), "../x"):
        assert await storage.executions.claim(execution_id) is None


async def test_requests_to_cancel_stay_until_they_are_dropped(storage: Storage) -> None:
    first, second = new_id(), new_id()
    for execution_id in (first, second, first):
        await storage.executions.request_cancel(execution_id)
    assert set(await storage.executions.list_cancel_requests()) == {first, second}
    await storage.executions.drop_cancel_request(first)
    await storage.executions.drop_cancel_request(first)
    assert list(await storage.executions.list_cancel_requests()) == [second]
