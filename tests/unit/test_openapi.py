"""The OpenAPI document: valid, fresh, complete, and with the rules of the protos."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from google.api import annotations_pb2
from openapi_spec_validator import OpenAPIV31SpecValidator

from cloutagent_server.transport.server import FILES
from scripts.generate_openapi import DOCUMENTATION, main, write_documentation
from scripts.proto_image import PROTOS

ID = "6d0f2c1e-0000-4000-8000-000000000000"
AGENT = {"name": "a", "systemPrompt": "s", "model": "m"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCUMENTATION / "openapi.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations by their ids."""
    every = [operation for path in document["paths"].values() for operation in path.values()]
    found = {operation["operationId"]: operation for operation in every}
    assert len(found) == len(every)
    return found


def accepts(document: dict[str, Any], schema: str, value: Any) -> bool:
    """Whether a value is what the schema with this name describes."""
    components = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    valid: bool = jsonschema_rs.Draft202012Validator(components, validate_formats=True).is_valid(value)
    return valid


def parameters(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its parameters by name."""
    return {each["name"]: each for each in operation.get("parameters", [])}


def test_what_is_checked_in_is_what_the_protos_give(tmp_path: Path) -> None:
    write_documentation(PROTOS, tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["docs.html", "openapi.json"]
    for name in made:
        assert (tmp_path / name).read_bytes() == (DOCUMENTATION / name).read_bytes(), "run `make generate`"


def test_it_is_a_valid_document_of_openapi_3_1() -> None:
    document = json.loads((DOCUMENTATION / "openapi.json").read_text(encoding="utf-8"))
    assert document["openapi"].startswith("3.1.")
    # The validator looks at what a reference leads to each time that it is met, which would take minutes.
    seen: set[str] = set()
    for operation in [each for path in document["paths"].values() for each in path.values()]:
        for status, answer in operation["responses"].items():
            reference = json.dumps(answer.get("content") or answer.get("$ref"))
            if reference in seen:
                operation["responses"][status] = {"description": "as elsewhere"}
            seen.add(reference)
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_of_the_protos_is_an_operation(document: dict[str, Any]) -> None:
    methods = [method for file in FILES for service in file.services_by_name.values() for method in service.methods]
    rules = [method.GetOptions().Extensions[annotations_pb2.http] for method in methods]
    routes = {
        (rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern"))) for rule in rules if rule.ListFields()
    }
    spelled = {(verb, re.sub(r"[._]([a-z])(?=[^{]*})", lambda each: each[1].upper(), path)) for verb, path in routes}
    documented = {(verb, path) for path, verbs in document["paths"].items() for verb in verbs}
    assert documented == spelled | {("get", "/api/openapi.json"), ("get", "/api/docs")}


def test_whatever_is_described_is_referred_to(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for kind in ("schemas", "responses", "headers"):
        for name in document["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, f"{kind} {name} is not used"


def test_every_operation_and_field_is_described(document: dict[str, Any], operations: dict[str, Any]) -> None:
    for operation in operations.values():
        assert operation["summary"] and operation["description"]
        assert all(each["description"] for each in operation.get("parameters", []))
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
    for name, field in fields(document):
        assert field.get("description") or "const" in field or "$ref" in field, name


def fields(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            yield f"{name}.{field}", described


def test_descriptions_spell_fields_as_json_does(document: dict[str, Any], operations: dict[str, Any]) -> None:
    assert "`pageSize`" in operations["listExecutions"]["description"]
    assert "`limits.maxCost`" in parameters(operations["updateProject"])["updateMask"]["description"]
    # Kinds of events and names in an error's metadata are values, and stay as they are.
    assert "`text_delta`" in document["components"]["schemas"]["ExecutionEvent"]["properties"]["kind"]["description"]
    assert "`project_id`" in document["components"]["schemas"]["ErrorReason"]["description"]


@pytest.mark.parametrize(
    ("schema", "value", "fits"),
    [
        ("CreateProjectRequest", {"name": "p", "agent": AGENT}, True),
        ("CreateProjectRequest", {"name": "p", "agent": {**AGENT, "temperature": 0, "maxTokens": 200_000}}, True),
        ("CreateProjectRequest", {"agent": AGENT}, False),
        ("CreateProjectRequest", {"name": "p"}, False),
        ("CreateProjectRequest", {"name": "p", "agent": {"name": "a", "model": "m"}}, False),
        ("CreateProjectRequest", {"name": "", "agent": AGENT}, False),
        ("CreateProjectRequest", {"name": "n" * 101, "agent": AGENT}, False),
        ("CreateProjectRequest", {"name": "p", "agent": {**AGENT, "temperature": 1.1}}, False),
        ("CreateProjectRequest", {"name": "p", "agent": {**AGENT, "maxTokens": 0}}, False),
        ("CreateProjectRequest", {"name": "p", "agent": {**AGENT, "enabledTools": ["Read", "Read"]}}, False),
        ("CreateProjectRequest", {"name": "p", "agent": {**AGENT, "enabledTools": ["-"]}}, False),
        ("CreateProjectRequest", {"name": "p", "agent": AGENT, "limits": {"maxCost": 0}}, False),
        ("CreateProjectRequest", {"name": "p", "agent": AGENT, "limits": {"maxTokens": 3_000_000_000}}, False),
        ("ProjectInput", {"limits": {"timeout": 1000}}, True),
        ("ExecuteRequest", {"prompt": "p", "options": {"variables": {"a_1": "x"}}, "onDisconnect": "cancel"}, True),
        ("ExecuteRequest", {"prompt": "p", "options": {"variables": {"1a": "x"}}}, False),
        ("ExecuteRequest", {"prompt": "p", "labels": {"a": "b" * 257}}, False),
        ("ExecuteRequest", {"prompt": "p", "onDisconnect": "wait"}, False),
        ("RestoreSecretVersionRequest", {}, False),
    ],
)
def test_the_rules_of_requests_hold(document: dict[str, Any], schema: str, value: Any, fits: bool) -> None:
    assert accepts(document, schema, value) == fits


def test_a_request_has_no_field_that_the_path_or_the_server_gives(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert "projectId" not in schemas["ExecuteRequest"]["properties"]
    assert not {"id", "createdAt", "updatedAt"} & set(schemas["ProjectInput"]["properties"])
    assert "id" not in schemas["AgentConfigInput"]["properties"]


def test_an_answer_has_every_field_that_is_not_optional(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["ListProjectsResponse"]["required"] == ["projects"]
    assert set(schemas["Project"]["required"]) == {"id", "agent", "limits", "createdAt", "updatedAt"}
    assert "required" not in schemas["StartExecutionResponse"]
    assert set(schemas["UsageReport"]["required"]) == {"projectId", "from", "to", "days", "sum", "budgets"}
    event = schemas["ExecutionEvent"]
    assert event["required"] == ["executionId", "sequence", "time", "kind"]
    assert schemas["Execution"]["properties"]["createdAt"]["format"] == "date-time"
    assert schemas["Execution.Status"]["enum"] == [
        "unspecified",
        "queued",
        "running",
        "completed",
        "failed",
        "cancelled",
    ]


def test_parameters_stand_where_the_route_has_them(operations: dict[str, dict[str, Any]]) -> None:
    found = parameters(operations["listExecutions"])
    assert {name: each["in"] for name, each in found.items()} == {
        "projectId": "path",
        **dict.fromkeys(("pageSize", "pageToken", "statuses", "labels", "createdAfter", "createdBefore"), "query"),
    }
    assert found["statuses"]["schema"]["items"]["enum"] == ["queued", "running", "completed", "failed", "cancelled"]
    assert parameters(operations["updateProject"]).keys() == {"projectId", "updateMask"}
    assert parameters(operations["getExecutionCost"]).keys() == {"executionId", "limits.maxTokens", "limits.maxCost"}
    assert parameters(operations["getUsage"]).keys() == {"projectId", "from", "to"}
    assert parameters(operations["getProject"])["projectId"]["schema"]["format"] == "uuid"
    assert parameters(operations["updateProject"])["projectId"]["schema"]["format"] == "uuid"


def test_headers_stand_at_the_operations_that_read_them(operations: dict[str, dict[str, Any]]) -> None:
    with_header = {
        header: {name for name, operation in operations.items() if header in parameters(operation)}
        for header in ("Idempotency-Key", "Last-Event-ID")
    }
    assert with_header == {
        "Idempotency-Key": {"execute", "startExecution", "executeEventStream"},
        "Last-Event-ID": {"streamExecutionEvents", "executeEventStream"},
    }


def test_statuses_follow_from_routes_and_access_rules(operations: dict[str, dict[str, Any]]) -> None:
    assert set(operations["createProject"]["responses"]) >= {"201", "400", "401", "403", "409", "413", "415", "429"}
    assert "200" not in operations["createProject"]["responses"]
    assert set(operations["startExecution"]["responses"]) >= {"200", "201"}
    assert set(operations["deleteSecret"]["responses"]) >= {"204", "404"}
    assert not set(operations["getHealth"]["responses"]) & {"401", "403", "404", "409", "413"}
    assert not set(operations["listModels"]["responses"]) & {"403", "404"}
    for operation in operations.values():
        assert {"400", "405", "429", "431"} <= set(operation["responses"])
    assert operations["getHealth"]["security"] == []
    assert operations["createProject"]["security"] == [{}, {"apiKey": []}]
    assert operations["getProject"]["security"] == [{"apiKey": []}]


def test_streams_say_what_they_stream(operations: dict[str, dict[str, Any]]) -> None:
    for name, item in (
        ("streamExecutionEvents", "ExecutionEvent"),
        ("executeEventStream", "ExecutionEvent"),
        ("streamUsage", "WatchUsageResponse"),
    ):
        content = operations[name]["responses"]["200"]["content"]
        assert content.keys() == {"text/event-stream", "application/x-ndjson"}
        for media in content.values():
            assert media["schema"]["x-item"] == {"$ref": f"#/components/schemas/{item}"}


def test_a_rule_that_the_document_could_not_tell_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "protos" / "cloutagent"
    source.mkdir(parents=True)
    (source / "v1").mkdir()
    for proto in (PROTOS / "cloutagent" / "v1").iterdir():
        text = proto.read_text(encoding="utf-8")
        if proto.name == "system.proto":
            text = text.replace("message GetHealthRequest {}", WITH_RULE).replace('import "cloutagent', IMPORT, 1)
        (source / "v1" / proto.name).write_text(text, encoding="utf-8")
    assert main([f"--protos={tmp_path / 'protos'}", f"--documentation={tmp_path / 'out'}"]) == 1
    assert capsys.readouterr().err == "string.email\n"
    assert not (tmp_path / "out").exists()


WITH_RULE = "message GetHealthRequest { string to = 1 [(buf.validate.field).string.email = true]; }"
IMPORT = 'import "buf/validate/validate.proto";\nimport "cloutagent'


class Links(HTMLParser):
    """Ids and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert value is not None
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src"):
                self.links.append(value)


def test_the_page_shows_every_operation_and_schema_and_leads_nowhere_else(
    document: dict[str, Any], operations: dict[str, Any]
) -> None:
    text = (DOCUMENTATION / "docs.html").read_text(encoding="utf-8")
    page = Links()
    page.feed(text)
    assert len(page.ids) == len(set(page.ids))
    expected = {f"operation-{name}" for name in operations} | {
        f"schema-{name}" for name in document["components"]["schemas"]
    }
    assert expected <= set(page.ids)
    for link in page.links:
        assert link in ("docs.css", "openapi.json") or link.removeprefix("#") in page.ids, link
    assert "://" not in re.sub(r"<code>[^<]*</code>|<small>[^<]*</small>", "", text)
