"""Projects are changed, asked after and deleted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from tests.support.api import Api, Json, failing
from tests.support.api.scenario import NO_ID, ProjectHandle, Projects
from tests.support.api.stage import DEPTHS
from tests.support.api.witness import files_with
from tests.support.fake_engine import FakeEngine


async def _update(project: ProjectHandle, mask: str | None = None, **fields: object) -> Json:
    body: Json = {"project": {"id": project.id, **fields}}
    if mask is not None:
        body["updateMask"] = mask
    updated: Json = (await project.api.call("UpdateProject", body, project.key))["project"]
    return updated


@pytest.mark.depths(*DEPTHS)
async def test_an_update_without_a_mask_changes_what_is_present(projects: Projects) -> None:
    project = await projects(description="old")
    updated = await _update(project, name="new", agent={"temperature": 0}, limits={"maxCost": 0.5})
    before = project.document
    assert updated == {
        **before,
        "name": "new",
        "agent": {**before["agent"], "temperature": 0},
        "limits": {**before["limits"], "maxCost": 0.5},
        "updatedAt": updated["updatedAt"],
    }
    assert datetime.fromisoformat(updated["updatedAt"]) >= datetime.fromisoformat(before["updatedAt"])
    assert (await project.call("GetProject"))["project"] == updated


@pytest.mark.depths(*DEPTHS)
async def test_a_mask_chooses_what_changes(projects: Projects) -> None:
    project = await projects()
    updated = await _update(
        project, "name,agent.maxTokens", name="new", description="ignored", agent={"maxTokens": 7, "temperature": 0.1}
    )
    assert updated["name"] == "new" and "description" not in updated
    assert updated["agent"] == {**project.document["agent"], "maxTokens": 7}


async def test_a_masked_field_that_is_absent_is_reset(projects: Projects) -> None:
    agent = {"name": "a", "systemPrompt": "s", "model": "claude-opus-4", "temperature": 0.1, "enabledTools": ["Read"]}
    project = await projects(description="old", agent=agent, limits={"maxTokens": 5, "timeout": 2000})
    updated = await _update(project, "description,agent.temperature,agent.enabledTools,limits")
    assert "description" not in updated
    assert updated["agent"] == {**project.document["agent"], "temperature": 0.7, "enabledTools": []}
    assert updated["limits"] == {"maxTokens": 100000, "maxCost": 10.0, "timeout": 300000}


async def test_a_whole_section_can_be_masked(projects: Projects) -> None:
    project = await projects()
    agent = {"name": "b", "systemPrompt": "t", "model": "claude-opus-4"}
    updated = await _update(project, "agent", agent=agent)
    defaults = {"temperature": 0.7, "maxTokens": 4096, "enabledTools": [], "mcpServers": {}}
    expected = {"id": project.document["agent"]["id"], **defaults}
    assert updated["agent"] == {**agent, **expected}


async def test_an_update_refuses_what_cannot_change(projects: Projects) -> None:
    project = await projects()
    refused: list[tuple[str | None, dict[str, object], str]] = [
        (None, {"createdAt": "2020-01-01T00:00:00Z"}, "project.createdAt"),
        (None, {"updatedAt": "2020-01-01T00:00:00Z"}, "project.updatedAt"),
        (None, {"agent": {"id": NO_ID}}, "project.agent.id"),
        ("id", {}, "updateMask"),
        ("createdAt", {}, "updateMask"),
        ("agent.id", {}, "updateMask"),
        ("apiKeyHash", {}, "updateMask"),
        ("name,nonsense", {"name": "new"}, "updateMask"),
        ("name", {}, "project.name"),
        ("agent", {"agent": {"temperature": 0.5}}, ""),
        ("agent.model", {}, "project.agent.model"),
    ]
    for mask, fields, field in refused:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await _update(project, mask, **fields)
        expected = {f"project.agent.{name}" for name in ("name", "systemPrompt", "model")} if not field else {field}
        assert set(caught.failure.violations) == expected
    assert (await project.call("GetProject"))["project"] == project.document


async def test_an_update_that_changes_the_model_asks_the_price_list(projects: Projects) -> None:
    project = await projects()
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await _update(project, agent={"model": "gpt-5"})
    assert list(caught.failure.violations) == ["project.agent.model"]


@pytest.mark.depths(*DEPTHS)
async def test_exists_tells_whether_a_project_is_there(api: Api, projects: Projects) -> None:
    project, other = await projects(), await projects()
    assert await project.call("ProjectExists") == {"exists": True}
    assert await api.call("ProjectExists", {"projectId": NO_ID}, project.key) == {"exists": False}
    with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
        await api.call("ProjectExists", {"projectId": other.id}, project.key)
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await api.call("ProjectExists", {"projectId": "nonsense"}, project.key)
    assert list(caught.failure.violations) == ["projectId"]


@pytest.mark.depths(*DEPTHS)
async def test_me_tells_whose_key_it_is(api: Api, projects: Projects) -> None:
    project, other = await projects(name="mine"), await projects()
    assert await api.call("GetCurrentProject", {}, project.key) == {"project": project.document, "admin": False}
    assert (await api.call("GetCurrentProject", {}, other.key))["project"]["id"] == other.id


@pytest.mark.depths(*DEPTHS)
async def test_a_deleted_project_is_gone_with_its_key(api: Api, projects: Projects) -> None:
    project, other = await projects(), await projects()
    await project.call("SetSecret", name="TOKEN", value="x")
    execution = await project.start("hello")
    await project.ended(execution["id"])
    assert await project.call("DeleteProject", http=204) == {}
    with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
        await project.call("GetProject")
    with failing("NOT_FOUND", 404, "PROJECT_NOT_FOUND"):
        await api.call("GetProject", {"projectId": project.id}, other.key)
    with failing("NOT_FOUND", 404, "PROJECT_NOT_FOUND"):
        await api.call("DeleteProject", {"projectId": project.id}, other.key)
    with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND"):
        await api.call("GetExecution", {"executionId": execution["id"]}, other.key)
    assert [summary["id"] for summary in (await api.call("ListProjects", {}, other.key))["projects"]] == [other.id]


async def test_deleting_a_project_cancels_its_runs_and_leaves_no_file(
    projects: Projects, engine: FakeEngine, data_folder: Path
) -> None:
    project = await projects()
    execution = await project.start("hang")
    await project.reaches(execution["id"], "token_usage")
    await project.call("DeleteProject", http=204)
    assert engine.running == []
    # The audit log outlives what it tells of.
    left = {*files_with(data_folder, project.id), *files_with(data_folder, execution["id"])}
    assert {path.parent.name for path in left} <= {".audit"}
