"""What the key of one project opens of another over REST: nothing, however the request is spelled."""

from __future__ import annotations

import json

import pytest

from tests.support.api.scenario import ProjectHandle, Projects
from tests.support.api.stage import REST, Stage
from tests.support.raw_http import RawAnswer, answer_to

pytestmark = pytest.mark.depths(REST)

SECRET = "what only the other project knows"

# Ways to the other project, by {mine} and {other}.
OTHER = "/api/v1/projects/{other}"
MINE = "/api/v1/projects/{mine}"
PREFIXES = [
    OTHER,
    f"{MINE}/../{{other}}",
    f"{MINE}/../../projects/{{other}}",
    f"{MINE}/./../{{other}}",
    f"{MINE}//..//{{other}}",
    f"{MINE}/%2e%2e/{{other}}",
    f"{MINE}/%2E./{{other}}",
    f"{MINE}/.%2e/{{other}}",
    f"{MINE}%2f..%2f{{other}}",
    f"{MINE}/..%2f{{other}}",
    f"{MINE}%5c..%5c{{other}}",
    f"{MINE}\\..\\{{other}}",
    f"{MINE}/%252e%252e/{{other}}",
    f"{MINE}%252f..%252f{{other}}",
    f"{MINE}/..;/{{other}}",
    f"{MINE};/../{{other}}",
    f"{MINE};id={{other}}",
    f"{MINE};{{other}}",
    f"{MINE}%3b{{other}}",
    f"{MINE},{{other}}",
    f"{MINE}%2c{{other}}",
    f"{MINE}%00{{other}}",
    f"{MINE}%0a{{other}}",
    f"{MINE}%20{{other}}",
    f"{MINE}%23/../{{other}}",
    f"{MINE}%3f/../{{other}}",
    f"{MINE}%3fproject_id={{other}}",
    f"{MINE}%c0%af..%c0%af{{other}}",
    f"{MINE}%ef%bc%8f..%ef%bc%8f{{other}}",
    f"{MINE}%FF",
    "//api/v1/projects/{other}",
    "/api//v1/projects//{other}",
    "/api/v1/./projects/{other}",
    "/api/v1/projects/%7Bmine%7D/../{other}",
    "/nothing/../api/v1/projects/{other}",
    "/api/docs/../v1/projects/{other}",
    "/api/health/../v1/projects/{other}",
    "http://127.0.0.1/api/v1/projects/{other}",
    "http://{mine}/api/v1/projects/{other}",
    "/api/v1/projects/{other}%20",
    "/api/v1/projects/%20{other}",
    "/api/v1/projects/{other}.",
    "/api/v1/projects/{other}/",
    "/API/V1/PROJECTS/{other}",
]
# Headers by which some proxies and frameworks take a request for another one.
HEADERS = [
    "x-original-url: {path}",
    "x-rewrite-url: {path}",
    "x-envoy-original-path: {path}",
    "x-forwarded-path: {path}",
    "x-forwarded-uri: {path}",
    "x-forwarded-prefix: {path}/..",
    "x-project-id: {other}",
    "project_id: {other}",
    "project-id: {other}",
    "grpc-metadata-project-id: {other}",
    "host: {other}",
]
QUERIES = [
    "project_id={other}",
    "projectId={other}",
    "PROJECT_ID={other}",
    "project%5fid={other}",
    "project.id={other}",
    "id={other}",
    "projectId={mine}&projectId={other}",
    "name=TOKEN;projectId={other}",
    "&&projectId={other}",
    "projectId[]={other}",
    "parent={other}",
    "$alt=json&projectId={other}",
]
BODIES = [
    '{{"projectId": "{other}", {rest}}}',
    '{{{rest}, "projectId": "{other}"}}',
    '{{"project_id": "{other}", {rest}}}',
    '{{{rest}, "project_id": "{other}"}}',
    '{{"projectId": "{mine}", "projectId": "{other}", {rest}}}',
    '{{"project\\u0049d": "{other}", {rest}}}',
    '{{"projectId": ["{other}"], {rest}}}',
    '{{"project": {{"id": "{other}"}}, "id": "{other}", {rest}}}',
]


class Attacker:
    """Asks with the key of `mine` for what belongs to `other`."""

    def __init__(self, stage: Stage, mine: ProjectHandle, other: ProjectHandle) -> None:
        assert stage.address is not None
        self._port = int(stage.address.rpartition(":")[2])
        self._key = mine.key
        self.ids = {"mine": mine.id, "other": other.id}

    async def ask(self, verb: str, target: str, body: str = "", *headers: str) -> RawAnswer:
        """An answer, which tells nothing of the other project and is no fault of the server."""
        head = [f"{verb} {target} HTTP/1.1", "host: a", f"x-api-key: {self._key}", *headers]
        if body:
            head += ["content-type: application/json", f"content-length: {len(body.encode())}"]
        answer = await answer_to(self._port, "\r\n".join([*head, "", body]).encode())
        assert answer.status < 500, (verb, target, body, headers, answer)
        assert SECRET not in answer.body.decode(), (verb, target, body, headers)
        if answer.status >= 400:
            assert set(answer.document) == {"code", "message", "details"}, (verb, target, body, headers)
        return answer

    async def ask_for_all(self, prefix: str, query: str = "", *headers: str) -> None:
        """Read and write a project at this path, and a secret of it."""
        await self.ask("GET", prefix + query, "", *headers)
        await self.ask("GET", f"{prefix}/secrets/TOKEN{query}", "", *headers)
        await self.ask("PUT", f"{prefix}/secrets/TOKEN{query}", json.dumps({"value": "stolen"}), *headers)
        await self.ask("PATCH", prefix + query, json.dumps({"name": "stolen"}), *headers)


async def projects_of(projects: Projects) -> tuple[ProjectHandle, ProjectHandle]:
    """A project to ask with, and one that holds something."""
    mine, other = await projects(), await projects(description=SECRET)
    await other.call("SetSecret", name="TOKEN", value=SECRET)
    return mine, other


async def assert_untouched(other: ProjectHandle) -> None:
    """Nothing of the other project has changed."""
    assert (await other.call("GetProject"))["project"] == other.document
    assert (await other.call("GetSecret", name="TOKEN"))["value"] == SECRET
    assert (await other.call("ListExecutions"))["executions"] == []


async def test_no_spelling_of_a_path_leads_to_another_project(stage: Stage, projects: Projects) -> None:
    mine, other = await projects_of(projects)
    attacker = Attacker(stage, mine, other)
    for prefix in PREFIXES:
        path = prefix.format(**attacker.ids)
        await attacker.ask_for_all(path)
        await attacker.ask("POST", f"{path}/executions", json.dumps({"prompt": "stolen"}))
    for prefix in PREFIXES:
        await attacker.ask("DELETE", f"{prefix.format(**attacker.ids)}/secrets/TOKEN")
        await attacker.ask("DELETE", prefix.format(**attacker.ids))
    await assert_untouched(other)


async def test_no_query_and_no_header_leads_to_another_project(stage: Stage, projects: Projects) -> None:
    mine, other = await projects_of(projects)
    attacker = Attacker(stage, mine, other)
    for query in QUERIES:
        await attacker.ask_for_all(MINE.format(**attacker.ids), f"?{query.format(**attacker.ids)}")
    for header in HEADERS:
        named = header.format(path=OTHER.format(**attacker.ids), **attacker.ids)
        await attacker.ask_for_all(MINE.format(**attacker.ids), "", named)
    await assert_untouched(other)


async def test_no_body_leads_to_another_project(stage: Stage, projects: Projects) -> None:
    mine, other = await projects_of(projects)
    attacker = Attacker(stage, mine, other)
    for body in BODIES:
        for verb, path, rest in (
            ("PUT", "/secrets/TOKEN", '"value": "stolen"'),
            ("POST", "/executions", '"prompt": "stolen"'),
            ("POST", "/estimate", '"promptTokens": 1'),
            ("PATCH", "", '"name": "stolen"'),
        ):
            await attacker.ask(verb, MINE.format(**attacker.ids) + path, body.format(rest=rest, **attacker.ids))
    await assert_untouched(other)


async def test_no_spelling_leads_to_an_execution_of_another_project(stage: Stage, projects: Projects) -> None:
    mine, other = await projects_of(projects)
    run, foreign = await mine.start("mine"), await other.start(SECRET)
    await mine.ended(run["id"])
    before = await other.ended(foreign["id"])
    attacker = Attacker(stage, mine, other)
    ids = {"mine": run["id"], "other": foreign["id"]}
    for prefix in PREFIXES:
        path = prefix.replace("projects", "executions").format(**ids)
        for tail in ("", "/stream", "/receipt", "/cost"):
            await attacker.ask("GET", path + tail)
    path = f"/api/v1/executions/{ids['mine']}"
    for query in QUERIES:
        named = query.replace("project", "execution").format(**ids)
        for tail in ("", "/receipt", "/cost"):
            await attacker.ask("GET", f"{path}{tail}?{named}")
    for field in ("executionId", "execution_id", "id"):
        await attacker.ask("POST", f"{path}/cancel", json.dumps({field: ids["other"]}))
    for prefix in PREFIXES:
        await attacker.ask("DELETE", prefix.replace("projects", "executions").format(**ids))
    assert await other.execution(foreign["id"]) == before


async def test_of_two_keys_in_a_request_neither_opens_what_is_not_its_own(stage: Stage, projects: Projects) -> None:
    mine, other = await projects_of(projects)
    attacker = Attacker(stage, mine, other)
    for second in ("cla_00000000-0000-4000-8000-000000000000", mine.key, ""):
        await attacker.ask_for_all(OTHER.format(**attacker.ids), "", f"x-api-key: {second}")
    await assert_untouched(other)
