"""The line that each call leaves in the log tells which call it was, of which project, and how it ended."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from cloutagent_server.domain.identifiers import is_id
from tests.support.api.failure import ApiFailure
from tests.support.api.scenario import FOREIGN_KEY, NO_ID, Projects, eventually
from tests.support.api.stage import GRPC, REST
from tests.support.api.witness import WitnessedApi

pytestmark = pytest.mark.depths(GRPC, REST)
ADMIN_KEY = "an-admin-key-of-some-length"


async def last_call(log: io.StringIO, method: str) -> dict[str, Any]:
    """The last line of this method, which comes a moment after its answer."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        lines = [json.loads(line) for line in log.getvalue().splitlines() if line.startswith("{")]
        found[:] = [line for line in lines if line["event"] == "call" and line["method"].endswith(f"/{method}")]
        return bool(found)

    await eventually(there)
    return found[-1]


async def test_a_call_is_one_json_line(projects: Projects, server_log: io.StringIO) -> None:
    project = await projects()
    await project.call("GetProject")
    line = await last_call(server_log, "GetProject")
    assert line["method"] == "/cloutagent.v1.ProjectService/GetProject"
    assert (line["code"], line["level"], line["project_id"]) == ("OK", "info", project.id)
    assert 0 < line["milliseconds"] < 60_000
    assert line["request_id"] and is_id(line["key_id"])


async def test_the_project_is_that_which_the_call_is_about(
    projects: Projects, api: WitnessedApi, server_log: io.StringIO
) -> None:
    project, other = await projects(), await projects()
    assert (await last_call(server_log, "CreateProject"))["project_id"] == other.id
    execution = await project.start("hello")
    await project.watch(execution["id"])
    await project.about("GetExecution", execution["id"])
    assert (await last_call(server_log, "GetExecution"))["project_id"] == project.id
    # Of a call that is refused only the caller is known for sure.
    with pytest.raises(ApiFailure):
        await api.call("GetProject", {"projectId": project.id}, other.key)
    line = await last_call(server_log, "GetProject")
    assert (line["code"], line["project_id"]) == ("PERMISSION_DENIED", other.id)
    await api.call("GetCurrentProject", {}, project.key)
    assert (await last_call(server_log, "GetCurrentProject"))["project_id"] == project.id


async def test_a_caller_without_a_valid_key_has_no_project(
    projects: Projects, api: WitnessedApi, server_log: io.StringIO
) -> None:
    project = await projects()
    with pytest.raises(ApiFailure):
        await api.call("GetProject", {"projectId": project.id}, FOREIGN_KEY)
    line = await last_call(server_log, "GetProject")
    assert (line["code"], line["project_id"], line["key_id"]) == ("UNAUTHENTICATED", "-", "-")


@pytest.mark.server(admin_api_key=ADMIN_KEY)
async def test_the_operator_is_followed_to_the_project(api: WitnessedApi, server_log: io.StringIO) -> None:
    project = await Projects(api)(ADMIN_KEY)
    execution = await project.start("hello")
    await project.ended(execution["id"])
    await api.call("GetExecution", {"executionId": execution["id"]}, ADMIN_KEY)
    line = await last_call(server_log, "GetExecution")
    assert (line["project_id"], line["key_id"]) == (project.id, "admin")
    # What does not exist is told as nothing, however it is written.
    with pytest.raises(ApiFailure):
        await api.call("GetProject", {"projectId": NO_ID}, ADMIN_KEY)
    line = await last_call(server_log, "GetProject")
    assert (line["code"], line["project_id"]) == ("NOT_FOUND", "-")
