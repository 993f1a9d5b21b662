"""What only REST has: routes, HTTP statuses, bodies as people write them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from cloutagent_server.domain.errors import StorageUnavailable
from tests.support.api.rest import failure_of, http_client
from tests.support.api.scenario import Projects, project_body
from tests.support.api.stage import REST, Stage

pytestmark = pytest.mark.depths(REST)


@pytest_asyncio.fixture(loop_scope="session")
async def http(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client."""
    assert stage.address is not None
    async with http_client(stage.address) as client:
        yield client


async def test_a_project_as_curl_creates_it(http: httpx.AsyncClient) -> None:
    body = '{"name":"p","agent":{"name":"a","systemPrompt":"s","model":"claude-sonnet-4-5"}}'
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = await http.post("/api/v1/projects", content=body, headers=headers)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    project = response.json()["project"]
    assert set(project) == {"id", "name", "agent", "limits", "createdAt", "updatedAt"}
    assert all(number in response.text for number in ('"maxTokens":4096', '"maxCost":10', '"timeout":300000'))
    key = response.json()["apiKey"]
    for name in ("X-API-Key", "x-api-key"):
        read = await http.get(f"/api/v1/projects/{project['id']}", headers={name: key})
        assert (read.status_code, read.json()) == (200, {"project": project})


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/v1/nothing"),
        ("GET", "/api/v2/projects"),
        ("PUT", "/api/v1/projects/p1/nothing"),
        ("OPTIONS", "/api/v1/nothing"),
        ("POST", "/cloutagent.v1.ProjectService/Nothing"),
    ],
)
async def test_an_unknown_route_is_404_in_json(http: httpx.AsyncClient, verb: str, path: str) -> None:
    response = await http.request(verb, path)
    assert response.status_code == 404
    failure = failure_of(response)
    assert (failure.code, failure.reason) == ("NOT_FOUND", "INVALID_REQUEST")


@pytest.mark.parametrize(
    "content",
    [
        '{"name": ',
        "nonsense",
        "[]",
        '{"name": 5}',
        '{"name": "n", "agent": "a"}',
        '{"name": "n", "limits": {"maxTokens": 3000000000}}',
        '{"name": "n", "limits": {"maxTokens": 1.5}}',
        b'{"name": "\xff"}',
    ],
)
async def test_a_body_that_is_no_request_is_400_in_json(http: httpx.AsyncClient, content: str | bytes) -> None:
    response = await http.post("/api/v1/projects", content=content)
    assert response.status_code == 400
    assert failure_of(response).code == "INVALID_ARGUMENT"


async def test_an_unknown_query_parameter_is_400(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    response = await http.get("/api/v1/projects?nonsense=1", headers={"x-api-key": project.key})
    assert response.status_code == 400
    assert failure_of(response).code == "INVALID_ARGUMENT"


async def test_a_query_parameter_does_not_lead_to_another_project(http: httpx.AsyncClient, projects: Projects) -> None:
    project, other = await projects(), await projects()
    headers = {"x-api-key": project.key}
    for name in ("projectId", "project_id", "id"):
        response = await http.get(f"/api/v1/projects/{project.id}?{name}={other.id}", headers=headers)
        assert response.json() == {"project": project.document}
    for name in ("project.id", "id"):
        response = await http.patch(f"/api/v1/projects/{project.id}?{name}={other.id}", json={}, headers=headers)
        assert response.json()["project"]["id"] == project.id


async def test_an_id_in_the_body_does_not_lead_to_another_project(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    other = await projects(agent={**project_body()["agent"], "model": "claude-opus-4"})
    headers = {"x-api-key": project.key}
    for name in ("projectId", "project_id"):
        body = {name: other.id, "promptTokens": 1}
        response = await http.post(f"/api/v1/projects/{project.id}/estimate", json=body, headers=headers)
        assert response.status_code == 400 or response.json() == {"estimatedCost": 3e-06}
        body = {name: other.id, "value": "stolen"}
        await http.put(f"/api/v1/projects/{project.id}/secrets/TOKEN", json=body, headers=headers)
    assert await other.call("ListSecrets") == {"names": []}


async def test_a_path_with_escapes_leads_nowhere(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    headers = {"x-api-key": project.key}
    for path in ("%2e%2e%2fprojects", f"{project.id}%2Fsecrets", "..%2f..%2fetc"):
        response = await http.get(f"/api/v1/projects/{path}", headers=headers)
        assert response.status_code in (400, 404)
        assert failure_of(response).code in ("INVALID_ARGUMENT", "NOT_FOUND")


async def test_head_and_options_need_what_get_needs(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    path, headers = f"/api/v1/projects/{project.id}", {"x-api-key": project.key}
    got = await http.get(path, headers=headers)
    asked = await http.head(path, headers=headers)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == str(len(got.content))
    assert ((await http.head(path)).status_code, (await http.head("/api/health")).status_code) == (401, 200)
    options = await http.options(path)
    assert (options.status_code, options.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS, PATCH")


async def test_another_method_is_405_with_those_allowed(http: httpx.AsyncClient) -> None:
    for verb, path, allow in (
        ("PUT", "/api/v1/projects", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/api/health", "GET, HEAD, OPTIONS"),
        ("GET", "/api/v1/projects/p/execute", "OPTIONS, POST"),
        ("HEAD", "/api/v1/executions/e/stream", "GET, OPTIONS"),
    ):
        response = await http.request(verb, path)
        assert (response.status_code, response.headers["allow"]) == (405, allow)
        if verb != "HEAD":
            assert response.json()["code"] == 12


async def test_a_body_that_is_not_json_is_415(http: httpx.AsyncClient) -> None:
    for content_type in ("text/plain", "application/xml", "application/octet-stream"):
        response = await http.post("/api/v1/projects", content="{}", headers={"content-type": content_type})
        assert (response.status_code, response.json()["code"]) == (415, 3)


async def test_text_that_is_not_utf8_is_400(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    headers = {"x-api-key": project.key}
    for path in ("projects/%FF", f"projects/{project.id}/secrets/%C0%AF", "projects?pageToken=%FF"):
        response = await http.get(f"/api/v1/{path}", headers=headers)
        assert response.status_code == 400, path
        failure = failure_of(response)
        assert failure.code == "INVALID_ARGUMENT"
        assert not any(word in response.text for word in ("DecodeError", "Unexpected", "Exception", "google.protobuf"))


@pytest.mark.parametrize(
    "named", ["?id={}", "?project_id={}", "?projectId={}", "?project.id={}", "?project%2Eid={}", "?name=a&id={}"]
)
async def test_an_id_in_the_query_opens_nothing_of_another_project(
    http: httpx.AsyncClient, projects: Projects, named: str
) -> None:
    mine, other = await projects(), await projects()
    await other.call("SetSecret", name="TOKEN", value="of the other")
    headers = {"x-api-key": mine.key}
    query = named.format(other.id)
    answers = [
        await http.get(f"/api/v1/projects/{mine.id}/secrets{query}", headers=headers),
        await http.get(f"/api/v1/projects/{mine.id}/secrets/TOKEN{query}", headers=headers),
        await http.get(f"/api/v1/projects/{mine.id}/executions{query}", headers=headers),
        await http.get(f"/api/v1/projects/{mine.id}/keys{query}", headers=headers),
    ]
    assert all(answer.status_code in (200, 400, 404) for answer in answers)
    assert not any(other.id in answer.text or "of the other" in answer.text for answer in answers)
    await http.delete(f"/api/v1/projects/{mine.id}{query}", headers=headers)
    assert await other.call("ListSecrets") == {"names": ["TOKEN"]}


async def test_names_of_fields_may_be_those_of_the_protos(http: httpx.AsyncClient) -> None:
    agent = {"name": "a", "system_prompt": "s", "model": "claude-opus-4", "max_tokens": 7}
    response = await http.post("/api/v1/projects", json={"name": "n", "agent": agent})
    assert response.status_code == 201
    assert response.json()["project"]["agent"]["maxTokens"] == 7


async def test_a_projects_mask_comes_in_the_query(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects(description="old")
    for query in ("updateMask=name,agent.maxTokens", "update_mask=name,agent.max_tokens"):
        body = {"name": query, "agent": {"maxTokens": 9}, "description": "ignored"}
        response = await http.patch(
            f"/api/v1/projects/{project.id}?{query}", json=body, headers={"x-api-key": project.key}
        )
        assert response.status_code == 200, response.text
        changed = response.json()["project"]
        assert (changed["name"], changed["description"], changed["agent"]["maxTokens"]) == (query, "old", 9)


async def test_every_answer_has_a_request_id(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/health")).headers["x-request-id"]
    response = await http.get("/api/v1/me", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    detail = failure_of(response).detail("RequestInfo")
    assert detail is not None and detail["requestId"] == "mine-1"


async def test_a_storage_that_fails_is_503_with_retry_after(
    http: httpx.AsyncClient, stage: Stage, projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await projects()

    async def broken(*_: object) -> None:
        raise StorageUnavailable("no space left in /secret/path")

    monkeypatch.setattr(stage.storage.projects, "list", broken)
    response = await http.get("/api/v1/projects", headers={"x-api-key": project.key})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    failure = failure_of(response)
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "SERVER_UNAVAILABLE")
    assert "/secret/path" not in response.text


@pytest.mark.parametrize("sizes", [[61_000], [600] * 85])
async def test_headers_within_the_limit_are_taken(
    http: httpx.AsyncClient, projects: Projects, sizes: list[int]
) -> None:
    project = await projects()
    headers = {f"x-{number}": "y" * size for number, size in enumerate(sizes)}
    response = await http.get(f"/api/v1/projects/{project.id}", headers={**headers, "x-api-key": project.key})
    assert response.status_code == 200, response.text
    # And what is wrong is told as ever, however long it is.
    response = await http.get(f"/api/v1/projects/{'p' * 60_000}", headers={"x-api-key": project.key})
    assert (response.status_code, failure_of(response).reason) == (404, "PROJECT_NOT_FOUND")


async def test_headers_that_grpc_would_read_have_no_meaning(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    path = f"/api/v1/projects/{project.id}"
    for name, value in (
        ("grpc-timeout", "nonsense"),
        ("grpc-timeout", "1n"),
        ("grpc-encoding", "nonsense"),
        ("grpc-trace-bin", "%"),
        ("anything-bin", "%"),
    ):
        headers = {name: value, "x-api-key": project.key}
        assert (await http.get(path, headers=headers)).json() == {"project": project.document}, name
        assert (await http.head(path, headers=headers)).status_code == 200, name
        response = await http.post(f"{path}/estimate", json={"promptTokens": 1}, headers=headers)
        assert response.status_code == 200, name


async def test_a_body_larger_than_2_mib_is_413(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    body = json.dumps({"value": "x" * 2_200_000})
    path = f"/api/v1/projects/{project.id}/secrets/BIG"
    response = await http.put(path, content=body, headers={"x-api-key": project.key})
    assert response.status_code == 413
    assert response.json()["code"] == 3


async def test_creation_is_201_and_repetition_200(http: httpx.AsyncClient, projects: Projects) -> None:
    project = await projects()
    headers = {"x-api-key": project.key}
    path = f"/api/v1/projects/{project.id}/executions"
    body = {"prompt": "hello", "idempotencyKey": "k"}
    statuses = [(await http.post(path, json=body, headers=headers)).status_code for _ in range(2)]
    assert statuses == [201, 200]
    assert (await http.post("/api/v1/projects", json=project_body())).status_code == 201
