"""API keys of a project: several, named, with an expiry, rotated and revoked; and what failed attempts meet."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest

from cloutagent_server.domain import timestamps
from tests.support.api import Api, Json, failing
from tests.support.api.failure import ApiFailure
from tests.support.api.scenario import FOREIGN_KEY, NO_ID, ProjectHandle, Projects, eventually
from tests.support.api.stage import DEPTHS, GRPC, IN_PROCESS, MEMORY, REST, Stage
from tests.support.api.witness import WitnessedApi

ADMIN_KEY = "the-key-of-the-operator"
HOUR = 3_600_000


async def opens(api: Api, key: str) -> bool:
    """Whether a key works."""
    try:
        await api.call("GetCurrentProject", {}, key)
    except ApiFailure as failure:
        if failure.reason != "API_KEY_INVALID":
            raise
        return False
    return True


async def listed(project: ProjectHandle) -> list[Json]:
    """The project's keys."""
    keys: list[Json] = (await project.call("ListApiKeys"))["keys"]
    return keys


def later(milliseconds: int) -> str:
    """A time in the future, as JSON has it."""
    return timestamps.to_text(timestamps.now() + timedelta(milliseconds=milliseconds))


@pytest.mark.depths(*DEPTHS)
async def test_a_project_has_several_named_keys(api: Api, projects: Projects) -> None:
    project = await projects()
    (first,) = await listed(project)
    assert first["name"] == "default"
    created = await project.call("CreateApiKey", name="ci", expiresAt=later(HOUR), http=201)
    assert set(created) == {"apiKey", "key"}
    assert set(created["key"]) == {"id", "name", "createdAt", "expiresAt"}
    for key in (project.key, created["apiKey"]):
        me = await api.call("GetCurrentProject", {}, key)
        assert me["project"]["id"] == project.id
    default, ci = await listed(project)
    assert (default["id"], ci["id"], ci["name"]) == (first["id"], created["key"]["id"], "ci")
    assert set(default) == {"id", "name", "createdAt", "lastUsedAt"}
    assert set(ci) == {"id", "name", "createdAt", "expiresAt", "lastUsedAt"}
    await project.call("RevokeApiKey", keyId=ci["id"], http=204)
    assert not await opens(api, created["apiKey"])
    assert [key["id"] for key in await listed(project)] == [first["id"]]


@pytest.mark.depths(*DEPTHS)
async def test_a_key_that_ends_cannot_outlive_itself(api: Api, projects: Projects) -> None:
    project = await projects()
    (first,) = await listed(project)
    end = later(HOUR)
    short = await project.call("CreateApiKey", name="short", expiresAt=end, http=201)
    refused: list[tuple[str, Json]] = [
        ("CreateApiKey", {"name": "for ever"}),
        ("CreateApiKey", {"name": "longer", "expiresAt": later(2 * HOUR)}),
        ("RotateApiKey", {"keyId": first["id"]}),
        ("RevokeApiKey", {"keyId": first["id"]}),
    ]
    for rpc, body in refused:
        with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
            await api.call(rpc, {"projectId": project.id, **body}, short["apiKey"])
    body = {"projectId": project.id, "name": "as long", "expiresAt": end}
    assert (await api.call("CreateApiKey", body, short["apiKey"], http=201))["key"]["expiresAt"] == end
    rotated = await api.call("RotateApiKey", {"projectId": project.id, "gracePeriod": 60_000}, short["apiKey"])
    assert rotated["key"]["expiresAt"] == end
    refused = [
        ("CreateApiKey", {"name": "shorter", "expiresAt": later(1000)}),
        ("RotateApiKey", {}),
        ("RevokeApiKey", {"keyId": short["key"]["id"]}),
    ]
    for rpc, body in refused:
        with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
            await api.call(rpc, {"projectId": project.id, **body}, short["apiKey"])
    assert await opens(api, short["apiKey"]), "for everything else it works until its grace is over"
    assert [key["name"] for key in await listed(project)] == ["default", "short", "as long", "short"]


@pytest.mark.depths(*DEPTHS)
async def test_a_rotated_key_works_until_its_grace_is_over(api: Api, projects: Projects) -> None:
    project = await projects()
    (old,) = await listed(project)
    rotated = await project.call("RotateApiKey", gracePeriod=HOUR)
    assert rotated["key"]["name"] == "default" and "expiresAt" not in rotated["key"]
    assert await opens(api, project.key) and await opens(api, rotated["apiKey"])
    new, retiring = await listed(project)
    assert (new["id"], retiring["id"]) == (rotated["key"]["id"], old["id"])
    assert "expiresAt" in retiring
    await api.call("RevokeApiKey", {"projectId": project.id, "keyId": retiring["id"]}, rotated["apiKey"], http=204)
    assert not await opens(api, project.key)
    at_once = await api.call("RotateApiKey", {"projectId": project.id}, rotated["apiKey"])
    assert not await opens(api, rotated["apiKey"])
    assert await opens(api, at_once["apiKey"])


async def test_the_end_of_a_grace_and_an_expiry_need_no_call(api: Api, projects: Projects) -> None:
    project = await projects()
    short = await project.call("CreateApiKey", name="short", expiresAt=later(1500), http=201)
    assert await opens(api, short["apiKey"])
    rotated = await project.call("RotateApiKey", gracePeriod=700)
    assert await opens(api, project.key)

    async def gone() -> bool:
        return not await opens(api, project.key) and not await opens(api, short["apiKey"])

    await eventually(gone)
    keys = (await api.call("ListApiKeys", {"projectId": project.id}, rotated["apiKey"]))["keys"]
    assert [key["id"] for key in keys] == [rotated["key"]["id"]]


async def test_another_key_than_the_callers_is_rotated_by_its_id(api: Api, projects: Projects) -> None:
    project = await projects()
    other = await project.call("CreateApiKey", name="other", http=201)
    rotated = await project.call("RotateApiKey", keyId=other["key"]["id"])
    assert await opens(api, project.key)
    assert not await opens(api, other["apiKey"])
    assert rotated["key"]["name"] == "other"
    again = await api.call("RotateApiKey", {"projectId": project.id}, rotated["apiKey"])
    assert again["key"]["name"] == "other"
    assert [key["name"] for key in await listed(project)] == ["default", "other"]


async def test_what_is_faulty_is_refused(api: Api, projects: Projects) -> None:
    project = await projects()
    for rpc, field, value in (
        ("CreateApiKey", "name", ""),
        ("CreateApiKey", "name", "x" * 101),
        ("CreateApiKey", "expiresAt", "2020-01-01T00:00:00Z"),
        ("RotateApiKey", "gracePeriod", -1),
        ("RotateApiKey", "gracePeriod", 7 * 24 * HOUR + 1),
        ("RotateApiKey", "keyId", "x"),
    ):
        body: Json = {"name": "ci"} if rpc == "CreateApiKey" else {}
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call(rpc, **{**body, field: value})
        assert set(caught.failure.violations) == {field}
    for rpc in ("RotateApiKey", "RevokeApiKey"):
        with failing("NOT_FOUND", 404, "API_KEY_NOT_FOUND") as caught:
            await project.call(rpc, keyId=NO_ID)
        assert caught.failure.metadata == {"key_id": NO_ID}
    assert len(await listed(project)) == 1


async def test_a_key_of_another_project_cannot_be_touched(api: Api, projects: Projects) -> None:
    project, other = await projects(), await projects()
    (theirs,) = await listed(other)
    for rpc in ("RotateApiKey", "RevokeApiKey"):
        with failing("NOT_FOUND", 404, "API_KEY_NOT_FOUND"):
            await project.call(rpc, keyId=theirs["id"])
    assert await opens(api, other.key)


async def test_a_project_has_at_most_20_keys(api: Api, projects: Projects) -> None:
    project = await projects()
    for number in range(19):
        await project.call("CreateApiKey", name=f"key {number}", http=201)
    more: list[tuple[str, Json]] = [("CreateApiKey", {"name": "more"}), ("RotateApiKey", {"gracePeriod": 1000})]
    for rpc, body in more:
        with failing("FAILED_PRECONDITION", 400, "API_KEY_LIMIT_REACHED") as caught:
            await project.call(rpc, **body)
        assert caught.failure.metadata == {"limit": "20"}
    rotated = await project.call("RotateApiKey")
    assert await opens(api, rotated["apiKey"])


async def test_a_project_cannot_revoke_its_last_key(api: Api, projects: Projects) -> None:
    project = await projects()
    (only,) = await listed(project)
    with failing("FAILED_PRECONDITION", 400, "LAST_API_KEY") as caught:
        await project.call("RevokeApiKey", keyId=only["id"])
    assert caught.failure.metadata == {"key_id": only["id"]}
    assert await opens(api, project.key)


@pytest.mark.server(admin_api_key=ADMIN_KEY)
async def test_the_admin_revokes_the_last_key_and_makes_a_new_one(api: Api, projects: Projects) -> None:
    made = await projects(key=ADMIN_KEY)
    project = ProjectHandle(api, made.document, ADMIN_KEY)
    (only,) = await listed(project)
    assert "lastUsedAt" not in only
    rotated = await project.call("RotateApiKey")
    assert not await opens(api, made.key)
    await project.call("RevokeApiKey", keyId=rotated["key"]["id"], http=204)
    assert not await opens(api, rotated["apiKey"])
    assert await listed(project) == []
    with failing("NOT_FOUND", 404, "API_KEY_NOT_FOUND"):
        await project.call("RotateApiKey")
    created = await project.call("CreateApiKey", name="new", http=201)
    assert await opens(api, created["apiKey"])


async def test_rotations_at_the_same_time_replace_a_key_once(api: Api, projects: Projects) -> None:
    project = await projects()
    (only,) = await listed(project)
    keeper = await project.call("CreateApiKey", name="keeper", http=201)
    body = {"projectId": project.id, "keyId": only["id"]}
    results = await asyncio.gather(
        *(api.call("RotateApiKey", body, keeper["apiKey"]) for _ in range(4)), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, dict)]
    assert len(won) == 1
    assert {getattr(lost, "reason", None) for lost in results if lost not in won} == {"API_KEY_NOT_FOUND"}
    assert await opens(api, won[0]["apiKey"])


@pytest.mark.depths(MEMORY, IN_PROCESS, GRPC, REST)
@pytest.mark.server(max_failed_authentications=3)
async def test_failed_attempts_are_limited_and_valid_keys_pass(
    api: WitnessedApi, projects: Projects, stage: Stage
) -> None:
    project = await projects()
    for _ in range(3):
        with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
            await api.call("GetProject", {"projectId": project.id}, FOREIGN_KEY)
    with failing("RESOURCE_EXHAUSTED", 429, "AUTHENTICATION_RATE_LIMITED") as caught:
        await api.call("GetProject", {"projectId": project.id}, FOREIGN_KEY)
    retry = caught.failure.detail("RetryInfo")
    assert retry is not None
    assert 1 <= float(retry["retryDelay"].removesuffix("s")) <= 20
    if stage.address is not None and api.depth == REST:
        headers = {"x-api-key": FOREIGN_KEY}
        async with httpx.AsyncClient(base_url=f"http://{stage.address}", trust_env=False) as client:
            refused = await client.get(f"/api/v1/projects/{project.id}", headers=headers)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 20
    await api.call("GetProject", {"projectId": project.id}, project.key)
    with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
        await api.call("GetProject", {"projectId": project.id})
