"""Errors: their shape, and that nothing internal is in them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.support.api import Api, failing
from tests.support.api.scenario import Projects
from tests.support.api.stage import DEPTHS, GRPC, IN_PROCESS, REST, Stage


@pytest.mark.depths(*DEPTHS)
async def test_health_needs_no_key(api: Api) -> None:
    for key in (None, "nonsense"):
        health = await api.call("GetHealth", {}, key)
        assert set(health) == {"status", "version"}
        assert health["status"] == "ok" and health["version"]


@pytest.mark.depths(*DEPTHS)
async def test_an_error_has_a_code_a_message_and_details(api: Api, projects: Projects) -> None:
    project = await projects()
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await project.call("Execute", options={"maxTokens": 0})
    failure = caught.failure
    assert failure.message
    types = [detail["@type"].removeprefix("type.googleapis.com/google.rpc.") for detail in failure.details]
    assert types == ["ErrorInfo", "BadRequest", "RequestInfo"]
    info = failure.detail("ErrorInfo")
    assert info is not None and info["domain"] == "cloutagent"
    assert set(failure.violations) == {"prompt", "options.maxTokens"}
    request = failure.detail("RequestInfo")
    assert request is not None and request["requestId"]


@pytest.mark.depths(*DEPTHS)
async def test_of_a_fault_of_the_server_nothing_is_told_but_the_request_id(
    stage: Stage, projects: Projects, server_log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await projects()

    async def broken(*_: object) -> None:
        raise RuntimeError("the disk at /secret/path is on fire")

    monkeypatch.setattr(stage.storage.projects, "list", broken)
    with failing("INTERNAL", 500, "INTERNAL_ERROR") as caught:
        await project.api.call("ListProjects", {}, project.key)
    assert "/secret/path" not in str(caught.failure.details) + caught.failure.message
    request = caught.failure.detail("RequestInfo")
    assert request is not None
    (line,) = [line for line in server_log.getvalue().splitlines() if "/secret/path" in line]
    assert request["requestId"] in line


@pytest.mark.depths(*DEPTHS)
async def test_a_stream_hides_a_fault_of_the_server_as_well(
    stage: Stage, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await projects()
    result = await project.call("Execute", prompt="hello")

    async def broken(*_: object) -> None:
        raise RuntimeError("the disk at /secret/path is on fire")

    monkeypatch.setattr(stage.storage.executions, "read_events", broken)
    with failing("INTERNAL", 500, "INTERNAL_ERROR") as caught:
        await project.watch(result["id"])
    assert "/secret/path" not in str(caught.failure.details) + caught.failure.message


@pytest.mark.depths(IN_PROCESS, GRPC, REST)
async def test_a_damaged_record_is_an_error_and_stays_as_it_is(
    projects: Projects, data_folder: Path, server_log: io.StringIO
) -> None:
    project, other = await projects(), await projects()
    path = data_folder / project.id / "metadata.json"
    path.write_text('{"id": "half a rec')
    with failing("DATA_LOSS", 500, "STORED_DATA_DAMAGED") as caught:
        await project.call("GetProject")
    assert project.id not in caught.failure.message and str(data_folder) not in str(caught.failure.details)
    assert str(path) in server_log.getvalue()
    assert path.read_text() == '{"id": "half a rec'
    assert (await other.call("GetProject"))["project"] == other.document
    listed = await other.api.call("ListProjects", {}, other.key)
    assert [summary["id"] for summary in listed["projects"]] == [other.id]
