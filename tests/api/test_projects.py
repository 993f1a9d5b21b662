"""Projects are created, read and listed: the cases that the plan asks for, and the contract's JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.api import Api, failing
from tests.support.api.scenario import FOREIGN_KEY, MODEL, NO_ID, Projects, project_body
from tests.support.api.stage import DEPTHS, GRPC, IN_PROCESS, REST

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
FULL_BODY = {
    "name": "notes",
    "description": "Keeps notes.",
    "agent": {
        "name": "helper",
        "systemPrompt": "You help.",
        "model": "claude-opus-4",
        "temperature": 0,
        "maxTokens": 200000,
        "enabledTools": ["Read", "Grep"],
    },
    "limits": {"maxTokens": 500, "maxCost": 0.25, "timeout": 1000},
}


@pytest.mark.depths(*DEPTHS)
async def test_creation_returns_201_with_project_and_api_key(api: Api) -> None:
    created = await api.call("CreateProject", project_body(), http=201)
    project = created["project"]
    assert set(created) == {"project", "apiKey"}
    assert created["apiKey"].startswith("cla_") and UUID.fullmatch(created["apiKey"].removeprefix("cla_"))
    assert UUID.fullmatch(project["id"]) and UUID.fullmatch(project["agent"]["id"])
    assert project["createdAt"] == project["updatedAt"]
    assert datetime.fromisoformat(project["createdAt"]).tzinfo is not None
    assert project == {
        "id": project["id"],
        "name": "notes",
        "agent": {
            "id": project["agent"]["id"],
            "name": "helper",
            "systemPrompt": "You help.",
            "model": MODEL,
            "temperature": 0.7,
            "maxTokens": 4096,
            "enabledTools": [],
            "mcpServers": {},
        },
        "limits": {"maxTokens": 100000, "maxCost": 10.0, "timeout": 300000},
        "createdAt": project["createdAt"],
        "updatedAt": project["updatedAt"],
    }


async def test_creation_takes_everything_that_a_project_has(api: Api) -> None:
    created = await api.call("CreateProject", FULL_BODY, http=201)
    project = created["project"]
    agent = {**FULL_BODY["agent"], "id": project["agent"]["id"], "mcpServers": {}}  # type: ignore[dict-item]
    assert project == {
        **FULL_BODY,
        "agent": agent,
        "id": project["id"],
        "createdAt": project["createdAt"],
        "updatedAt": project["updatedAt"],
    }
    read = await api.call("GetProject", {"projectId": project["id"]}, created["apiKey"])
    assert read == {"project": project}


@pytest.mark.depths(*DEPTHS)
async def test_creation_returns_400_for_an_unknown_model_and_names_the_field(api: Api) -> None:
    body = project_body(agent={"name": "helper", "systemPrompt": "You help.", "model": "claude-sonnet-1"})
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await api.call("CreateProject", body)
    assert list(caught.failure.violations) == ["agent.model"]
    assert "agent.model" in caught.failure.message


async def test_creation_returns_400_with_a_violation_for_each_faulty_field(api: Api) -> None:
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await api.call("CreateProject", {"agent": {"name": "", "systemPrompt": "s", "temperature": 2}})
    assert set(caught.failure.violations) == {"name", "agent.name", "agent.model", "agent.temperature"}


@pytest.mark.depths(IN_PROCESS, GRPC, REST)
async def test_creation_creates_the_project_in_the_file_system(api: Api, data_folder: Path) -> None:
    created = await api.call("CreateProject", project_body(), http=201)
    path = data_folder / created["project"]["id"] / "metadata.json"
    stored = json.loads(path.read_text())
    assert stored["schemaVersion"] >= 1
    assert stored["name"] == "notes" and stored["agent"]["systemPrompt"] == "You help."
    assert stored["apiKeyHash"].startswith("$2b$")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.depths(*DEPTHS)
async def test_the_api_key_is_shown_at_creation_and_never_again(api: Api, projects: Projects) -> None:
    project = await projects()
    changed = {"project": {"id": project.id, "description": "changed"}}
    answers = [
        await api.call("GetProject", {"projectId": project.id}, project.key),
        await api.call("ListProjects", {}, project.key),
        await api.call("GetCurrentProject", {}, project.key),
        await api.call("UpdateProject", changed, project.key),
    ]
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await api.call("UpdateProject", {"project": {"id": project.id, "name": ""}}, project.key)
    shown = json.dumps(answers) + str(caught.failure.details) + caught.failure.message
    assert project.key not in shown and "apiKey" not in shown


async def test_two_projects_of_one_name_are_two_projects(projects: Projects) -> None:
    first, second = await projects(), await projects()
    assert first.id != second.id and first.key != second.key


@pytest.mark.depths(*DEPTHS)
async def test_get_returns_200_with_the_project_for_its_key(api: Api, projects: Projects) -> None:
    project = await projects()
    assert await api.call("GetProject", {"projectId": project.id}, project.key) == {"project": project.document}


@pytest.mark.depths(*DEPTHS)
async def test_get_returns_401_without_a_key(api: Api, projects: Projects) -> None:
    project = await projects()
    with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
        await api.call("GetProject", {"projectId": project.id})


async def test_get_returns_401_for_a_wrong_key(api: Api, projects: Projects) -> None:
    project = await projects()
    for key in (FOREIGN_KEY, "nonsense", project.key[:-1], project.key.upper(), f"{project.key}0"):
        with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
            await api.call("GetProject", {"projectId": project.id}, key)


@pytest.mark.depths(*DEPTHS)
async def test_get_returns_403_for_the_key_of_another_project(api: Api, projects: Projects) -> None:
    project, other = await projects(), await projects()
    with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
        await api.call("GetProject", {"projectId": project.id}, other.key)


@pytest.mark.depths(*DEPTHS)
async def test_get_returns_404_for_a_project_that_does_not_exist(api: Api, projects: Projects) -> None:
    project = await projects()
    for missing in (NO_ID, "nonsense", project.id.upper(), f"{project.id}0"):
        with failing("NOT_FOUND", 404, "PROJECT_NOT_FOUND") as caught:
            await api.call("GetProject", {"projectId": missing}, project.key)
        assert caught.failure.metadata == {"project_id": missing}


async def test_list_returns_200_with_summaries_oldest_first(api: Api, projects: Projects) -> None:
    first = await projects(name="first", description="the first one")
    second = await projects(name="second")
    answer = await api.call("ListProjects", {}, second.key)
    assert answer == {
        "projects": [
            {
                "id": first.id,
                "name": "first",
                "description": "the first one",
                "createdAt": first.document["createdAt"],
                "updatedAt": first.document["updatedAt"],
            },
            {
                "id": second.id,
                "name": "second",
                "createdAt": second.document["createdAt"],
                "updatedAt": second.document["updatedAt"],
            },
        ]
    }


async def test_list_returns_401_without_a_valid_key(api: Api) -> None:
    with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
        await api.call("ListProjects")
    with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
        await api.call("ListProjects", {}, FOREIGN_KEY)


async def test_list_comes_in_pages(api: Api, projects: Projects) -> None:
    made = [await projects(name=f"project {number}") for number in range(5)]
    key, found, token, pages = made[0].key, [], None, 0
    while pages == 0 or token is not None:
        body = {"pageSize": 2} if token is None else {"pageSize": 2, "pageToken": token}
        page = await api.call("ListProjects", body, key)
        found += [summary["id"] for summary in page["projects"]]
        token, pages = page.get("nextPageToken"), pages + 1
    assert found == [project.id for project in made]
    assert pages == 3


async def test_list_refuses_pages_that_cannot_be(api: Api, projects: Projects) -> None:
    project = await projects()
    for body, field in (
        ({"pageSize": 0}, "pageSize"),
        ({"pageSize": 1001}, "pageSize"),
        ({"pageToken": "nonsense"}, "pageToken"),
    ):
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await api.call("ListProjects", body, project.key)
        assert list(caught.failure.violations) == [field]
