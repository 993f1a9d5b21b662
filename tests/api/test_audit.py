"""What the audit log tells of calls, and that nothing is done which it cannot tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain import audit
from cloutagent_server.domain.audit import AuditEntry, AuditRecord
from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.service.refusals import RECORDED_EACH
from tests.support.api.failure import ApiFailure
from tests.support.api.scenario import FOREIGN_KEY, NO_ID, Projects, eventually
from tests.support.api.stage import IN_PROCESS, MEMORY, Stage
from tests.support.fake_engine import FakeEngine, hang

VALUE = "a value that nobody else may read"
ADMIN_KEY = "the key of the operator"


async def records(stage: Stage) -> list[AuditRecord]:
    return list(await stage.storage.audit.read(0, 1000))


async def told(stage: Stage, action: str) -> list[AuditEntry]:
    return [record.entry for record in await records(stage) if record.entry.action == action]


async def pair(stage: Stage, action: str) -> tuple[AuditEntry, AuditEntry]:
    """The two records of the one call of this action."""

    async def ended() -> bool:
        return len(await told(stage, action)) == 2

    await eventually(ended)
    both = [record for record in await records(stage) if record.entry.action == action]
    assert both[0].entry.outcome == audit.STARTED
    assert both[1].entry.start == both[0].sequence
    assert both[1].entry.request_id == both[0].entry.request_id
    assert both[0].entry.source == both[1].entry.source == "127.0.0.1"
    return both[0].entry, both[1].entry


async def test_a_change_is_recorded_before_and_after_with_actor_resource_and_request(
    stage: Stage, projects: Projects
) -> None:
    project = await projects()
    begun, ended = await pair(stage, "project.create")
    assert (begun.actor, begun.resource.project_id, ended.outcome) == (audit.ANONYMOUS, None, audit.OK)
    assert ended.resource.project_id == project.id
    await project.call("SetSecret", name="TOKEN", value=VALUE)
    [key] = (await project.call("ListApiKeys"))["keys"]
    begun, ended = await pair(stage, "secret.set")
    assert begun.actor == ended.actor == f"key:{project.id}/{key['id']}"
    assert (begun.resource.project_id, begun.resource.secret) == (project.id, "TOKEN")
    assert ended.outcome == audit.OK
    assert ended.secrets_head is not None and ended.secrets_head.revision == 1
    assert ended.secrets_head == await stage.storage.audit.secrets_head(project.id)
    assert (await project.call("GetSecret", name="TOKEN"))["value"] == VALUE
    await pair(stage, "secret.read")
    created = await project.call("CreateApiKey", name="ci", http=201)
    assert (await pair(stage, "api_key.create"))[1].resource.key_id == created["key"]["id"]
    await project.call("GetProject")
    await project.call("ListSecrets")
    assert {record.entry.action for record in await records(stage)} == {
        "project.create",
        "secret.set",
        "secret.read",
        "api_key.create",
    }
    written = json.dumps([audit.to_json(record) for record in await records(stage)])
    for secret in (VALUE, project.key, created["apiKey"]):
        assert secret not in written


async def test_a_call_that_fails_is_recorded_with_its_reason(stage: Stage, projects: Projects) -> None:
    project = await projects()
    with pytest.raises(ApiFailure):
        await project.call("DeleteSecret", name="NOBODY")
    begun, ended = await pair(stage, "secret.delete")
    assert ended.outcome == "SECRET_NOT_FOUND"
    assert begun.resource.secret == "NOBODY"


async def test_the_state_of_the_secrets_is_recorded_however_a_call_ended(stage: Stage, projects: Projects) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=VALUE)
    head = (await pair(stage, "secret.set"))[1].secrets_head
    with pytest.raises(ApiFailure):
        await project.call("DeleteSecret", name="NOBODY")
    assert (await pair(stage, "secret.delete"))[1].secrets_head == head is not None


async def test_a_dry_run_leaves_no_line(stage: Stage, projects: Projects) -> None:
    project = await projects()
    before = await records(stage)
    assert "estimate" in await project.call("StartExecution", prompt="hello", validateOnly=True)
    assert await records(stage) == before


async def test_a_run_is_recorded_with_the_execution_that_it_made(stage: Stage, projects: Projects) -> None:
    project = await projects()
    execution = await project.start("say hello")
    assert (await pair(stage, "execution.start"))[1].resource.execution_id == execution["id"]
    await project.ended(execution["id"])
    await project.about("DeleteExecution", execution["id"], http=204)
    begun, _ = await pair(stage, "execution.delete")
    assert (begun.resource.project_id, begun.resource.execution_id) == (project.id, execution["id"])


@pytest.mark.parametrize("rpc", ["ExecuteStream", "Execute"])
async def test_a_run_that_the_caller_follows_is_recorded_too(stage: Stage, projects: Projects, rpc: str) -> None:
    project = await projects()
    if rpc == "Execute":
        made: Any = (await project.call("Execute", prompt="say hello"))["id"]
    else:
        body = {"projectId": project.id, "prompt": "say hello"}
        [made] = {event["executionId"] async for event in stage.api.events(rpc, body, project.key)}
    _, ended = await pair(stage, "execution.start")
    assert (ended.resource.execution_id, ended.outcome) == (made, audit.OK)


async def test_a_caller_that_goes_away_is_recorded_as_cancelled(
    stage: Stage, projects: Projects, engine: FakeEngine
) -> None:
    engine.script = lambda prompt: [hang()]
    project = await projects()
    events: Any = stage.api.events("ExecuteStream", {"projectId": project.id, "prompt": "say hello"}, project.key)
    async with aclosing(events):
        execution_id = (await anext(events))["executionId"]
    _, ended = await pair(stage, "execution.start")
    assert (ended.outcome, ended.resource.execution_id) == (audit.CANCELLED, execution_id)


async def test_what_access_refuses_is_recorded_as_denied(stage: Stage, projects: Projects) -> None:
    mine, other = await projects(), await projects()
    with pytest.raises(ApiFailure):
        await stage.api.call("DeleteProject", {"projectId": other.id}, mine.key)
    with pytest.raises(ApiFailure):
        await stage.api.call("GetProject", {"projectId": other.id}, mine.key)
    [denied] = [record.entry for record in await records(stage) if record.entry.outcome == audit.DENIED]
    assert denied.action == audit.DELETE_PROJECT
    assert denied.actor.startswith(f"key:{mine.id}/")
    assert (denied.resource.project_id, denied.source) == (other.id, "127.0.0.1")
    with pytest.raises(ApiFailure):
        await stage.api.call("DeleteProject", {"projectId": NO_ID}, mine.key)
    assert not [entry for entry in await told(stage, audit.DELETE_PROJECT) if entry.outcome == audit.OK]


@pytest.mark.depths(IN_PROCESS)
async def test_one_key_that_is_refused_does_not_fill_the_log(stage: Stage, projects: Projects) -> None:
    mine, other = await projects(), await projects()
    before = len(await records(stage))
    for number in range(30):
        # Of other secrets each: what a caller may choose bounds nothing.
        with pytest.raises(ApiFailure):
            await stage.api.call("DeleteSecret", {"projectId": other.id, "name": f"SECRET_{number}"}, mine.key)
    assert len(await records(stage)) == before + RECORDED_EACH
    await stage.app.services.audit.stop()
    *denied, rest = [record.entry for record in await records(stage)][before:]
    assert {entry.outcome for entry in denied} == {audit.DENIED}
    assert len(denied) + (rest.count or 0) == 30
    assert (rest.actor, rest.action, rest.outcome) == (denied[0].actor, audit.ACCESS, audit.DENIED)


@pytest.mark.server(max_failed_authentications=2)
async def test_a_source_that_tries_too_many_keys_is_recorded_once(stage: Stage) -> None:
    for _ in range(5):
        with pytest.raises(ApiFailure):
            await stage.api.call("GetProject", {"projectId": NO_ID}, FOREIGN_KEY)
    [record] = await records(stage)
    assert (record.entry.action, record.entry.actor) == (audit.AUTHENTICATION, audit.ANONYMOUS)
    assert (record.entry.outcome, record.entry.source) == ("AUTHENTICATION_RATE_LIMITED", "127.0.0.1")


@pytest.mark.server(admin_api_key=ADMIN_KEY)
@pytest.mark.depths(MEMORY)
async def test_the_admin_is_named_as_such(stage: Stage, projects: Projects) -> None:
    project = await projects(ADMIN_KEY)
    await stage.api.call("DeleteProject", {"projectId": project.id}, ADMIN_KEY, http=204)
    assert {record.entry.actor for record in await records(stage)} == {audit.ADMIN}


async def test_what_cannot_be_recorded_is_not_done(
    stage: Stage, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value=VALUE)
    before = await records(stage)

    async def refuse(entry: AuditEntry) -> AuditRecord:
        raise StorageUnavailable("No space left on device")

    calls: Mapping[str, Mapping[str, Any]] = {
        "SetSecret": {"name": "TOKEN", "value": "other"},
        "GetSecret": {"name": "TOKEN"},
        "DeleteProject": {},
        "StartExecution": {"prompt": "say hello"},
        "CreateApiKey": {"name": "ci"},
    }
    with monkeypatch.context() as patched:
        patched.setattr(stage.storage.audit, "append", refuse)
        for rpc, fields in calls.items():
            with pytest.raises(ApiFailure) as refused:
                await project.call(rpc, **fields)
            assert refused.value.reason == "SERVER_UNAVAILABLE"
        assert (await project.call("ListSecrets"))["names"] == ["TOKEN"]
    assert await records(stage) == before
    assert (await project.call("GetSecretMetadata", name="TOKEN"))["version"] == 1
    assert (await project.call("ListExecutions"))["executions"] == []
    assert len((await project.call("ListApiKeys"))["keys"]) == 1


@pytest.mark.depths(IN_PROCESS)
async def test_secrets_whose_files_were_all_rolled_back_are_refused(
    stage: Stage, projects: Projects, data_folder: Path
) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value="first")
    directory = data_folder / project.id / ".secrets"
    old = {path: path.read_bytes() for path in directory.iterdir()}
    await project.call("SetSecret", name="TOKEN", value="second")
    new = {path: path.read_bytes() for path in directory.iterdir()}
    for path, content in old.items():
        path.write_bytes(content)
    calls: Mapping[str, Mapping[str, Any]] = {"GetSecret": {}, "SetSecret": {"value": "third"}}
    for rpc, fields in calls.items():
        with pytest.raises(ApiFailure) as refused:
            await project.call(rpc, name="TOKEN", **fields)
        assert refused.value.reason == "STORED_DATA_DAMAGED"
    for path, content in new.items():
        path.write_bytes(content)
    assert (await project.call("GetSecret", name="TOKEN"))["value"] == "second"
