"""Who may call what: every method of the API, as the access rules of the protos say."""

from __future__ import annotations

from typing import Any

import pytest

from cloutagent.v1 import access_pb2
from tests.support.api import Api, Json, failing
from tests.support.api.json_form import METHODS
from tests.support.api.scenario import FOREIGN_KEY, NO_ID, ProjectHandle, Projects, project_body
from tests.support.api.stage import DEPTHS, GRPC, GRPC_ENVOY, IN_PROCESS, MEMORY, REST

ADMIN_KEY = "the-key-of-the-operator"
TEXT_STREAMS = ("StreamExecutionEvents", "ExecuteEventStream", "StreamUsage")
STREAMS = ("WatchExecution", "ExecuteStream", "WatchUsage")


def _rule(rpc: str) -> access_pb2.Access:
    rule: access_pb2.Access = METHODS[rpc].descriptor.GetOptions().Extensions[access_pb2.access]
    return rule


OF_PROJECTS = [rpc for rpc in METHODS if _rule(rpc).WhichOneof("rule") == "project_field"]
OF_EXECUTIONS = [rpc for rpc in METHODS if _rule(rpc).WhichOneof("rule") == "execution_field"]
OF_ANY_KEY = [rpc for rpc in METHODS if _rule(rpc).WhichOneof("rule") == "any_key"]


def _body(rpc: str, identifier: str) -> Json:
    """A request that names a project or an execution and is not valid otherwise, where that can be."""
    if rpc == "UpdateProject":
        return {"project": {"id": identifier, "name": ""}}
    if "Secret" in rpc and rpc != "ListSecrets":
        return {"projectId": identifier, "name": "not-a-name"}
    if rpc == "RevokeApiKey":
        return {"projectId": identifier, "keyId": "not-an-id"}
    if rpc in OF_EXECUTIONS:
        return {"executionId": identifier}
    return {"projectId": identifier} if rpc in OF_PROJECTS else {}


async def _send(api: Api, rpc: str, body: Json, key: str | None) -> None:
    """Make a call of any kind and drop its answer."""
    if rpc in TEXT_STREAMS:
        async with api.text(rpc, body, key):
            return
    if rpc in STREAMS:
        async for _ in api.events(rpc, body, key):
            pass
        return
    await api.call(rpc, body, key)


@pytest.mark.depths(*DEPTHS)
async def test_without_a_key_nothing_but_creation_and_health_is_open(api: Api) -> None:
    for rpc in (*OF_PROJECTS, *OF_EXECUTIONS, *OF_ANY_KEY):
        with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
            await _send(api, rpc, _body(rpc, NO_ID), None)
    rest = set(METHODS) - {*OF_PROJECTS, *OF_EXECUTIONS, *OF_ANY_KEY}
    assert rest == {"CreateProject", "GetHealth"}


async def test_a_wrong_key_opens_nothing(api: Api) -> None:
    for rpc in (*OF_PROJECTS, *OF_EXECUTIONS, *OF_ANY_KEY):
        with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
            await _send(api, rpc, _body(rpc, NO_ID), FOREIGN_KEY)


@pytest.mark.depths(*DEPTHS)
async def test_the_key_of_another_project_is_refused_before_the_request_is_looked_at(
    api: Api, projects: Projects
) -> None:
    project, other = await projects(), await projects()
    execution = await project.start("hello")
    for rpc in (*OF_PROJECTS, *OF_EXECUTIONS):
        identifier = project.id if rpc in OF_PROJECTS else execution["id"]
        with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
            await _send(api, rpc, _body(rpc, identifier), other.key)


async def test_what_does_not_exist_is_404_whatever_its_id_looks_like(api: Api, projects: Projects) -> None:
    project = await projects()
    for identifier in (NO_ID, "nonsense", project.id.upper()):
        for rpc in OF_PROJECTS:
            if rpc != "ProjectExists":
                with failing("NOT_FOUND", 404, "PROJECT_NOT_FOUND") as caught:
                    await _send(api, rpc, _body(rpc, identifier), project.key)
                assert caught.failure.metadata == {"project_id": identifier}
        for rpc in OF_EXECUTIONS:
            with failing("NOT_FOUND", 404, "EXECUTION_NOT_FOUND") as caught:
                await _send(api, rpc, _body(rpc, identifier), project.key)
            assert caught.failure.metadata == {"execution_id": identifier}


async def test_a_projects_key_creates_a_project_like_anybody_else(api: Api, projects: Projects) -> None:
    project = await projects()
    assert (await projects(key=project.key)).id != project.id
    assert (await projects(key=FOREIGN_KEY)).id != project.id


@pytest.mark.depths(MEMORY, IN_PROCESS, GRPC, REST, GRPC_ENVOY)
@pytest.mark.server(admin_api_key=ADMIN_KEY)
class TestWithAdminKey:
    """Once the operator has set `ADMIN_API_KEY`."""

    async def test_only_the_admin_creates_projects(self, api: Api, projects: Projects) -> None:
        with failing("UNAUTHENTICATED", 401, "API_KEY_MISSING"):
            await api.call("CreateProject", project_body())
        with failing("UNAUTHENTICATED", 401, "API_KEY_INVALID"):
            await api.call("CreateProject", project_body(), ADMIN_KEY + "x")
        project = await projects(key=ADMIN_KEY)
        with failing("PERMISSION_DENIED", 403, "ACCESS_DENIED"):
            await api.call("CreateProject", {}, project.key)

    async def test_the_admin_sees_all_and_a_project_itself(self, api: Api, projects: Projects) -> None:
        first, second = await projects(key=ADMIN_KEY), await projects(key=ADMIN_KEY)
        assert await _listed(api, ADMIN_KEY) == [first.id, second.id]
        assert await _listed(api, first.key) == [first.id]
        assert await _listed(api, second.key) == [second.id]

    async def test_the_admin_opens_every_project(self, api: Api, projects: Projects) -> None:
        made = await projects(key=ADMIN_KEY)
        project = ProjectHandle(api, made.document, ADMIN_KEY)
        await project.call("SetSecret", name="TOKEN", value="x")
        assert await project.call("GetSecret", name="TOKEN") == {"value": "x"}
        execution = await project.start("hello")
        assert (await project.ended(execution["id"]))["status"] == "completed"
        assert await made.execution(execution["id"]) == await project.execution(execution["id"])
        assert await project.call("ProjectExists") == {"exists": True}
        await project.call("DeleteProject", http=204)
        assert await project.call("ProjectExists") == {"exists": False}
        for identifier in (made.id, "nonsense"):
            with failing("NOT_FOUND", 404, "PROJECT_NOT_FOUND"):
                await api.call("GetProject", {"projectId": identifier}, ADMIN_KEY)

    async def test_me_tells_the_admin_so(self, api: Api) -> None:
        assert await api.call("GetCurrentProject", {}, ADMIN_KEY) == {"admin": True}

    async def test_health_stays_open(self, api: Api) -> None:
        assert (await api.call("GetHealth"))["status"] == "ok"


async def _listed(api: Api, key: str) -> list[Any]:
    return [summary["id"] for summary in (await api.call("ListProjects", {}, key))["projects"]]
