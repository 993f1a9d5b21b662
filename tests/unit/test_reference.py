"""The API reference: fresh, complete, and with rules in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import cloutagent
from cloutagent_server.transport.server import FILES
from scripts.generate_reference import REFERENCE, pages, write_reference
from scripts.openapi.rules import UnknownRule
from scripts.proto_image import PROTOS
from scripts.reference import exports as exports_module
from scripts.reference import python
from scripts.reference.exports import CompilerFailed, exports
from scripts.reference.markdown import Links, anchor, item, paragraphs


@pytest.fixture(scope="module")
def reference() -> Mapping[str, str]:
    return pages(PROTOS)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def section(text: str, heading: str) -> str:
    """What stands under a heading, on one line."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    return " ".join(found[1].split())


def test_what_is_checked_in_is_what_protos_and_docstrings_give(reference: Mapping[str, str]) -> None:
    checked_in = {path.name: path.read_text(encoding="utf-8") for path in REFERENCE.iterdir()}
    assert checked_in == reference, "run `make generate`"


def test_pages_that_are_none_any_more_go(tmp_path: Path, reference: Mapping[str, str]) -> None:
    (tmp_path / "gone.md").write_text("of a proto that is gone")
    write_reference(PROTOS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == reference.keys()


def test_every_call_message_field_enum_and_value_is_there(reference: Mapping[str, str]) -> None:
    assert len(FILES) == 4
    for file in FILES:
        page = reference[f"{Path(file.name).stem}.md"]
        for service in file.services_by_name.values():
            assert {service.name, *service.methods_by_name} <= {*headings(page)}
        for message in file.message_types_by_name.values():
            told = section(page, message.name)
            assert all(f"**`{name}`**" in told for name in message.fields_by_name)
            for enum in message.enum_types:
                told = section(page, f"{message.name}.{enum.name}")
                assert all(f"**`{name}`**" in told for name in enum.values_by_name)


def test_a_call_tells_its_route_its_key_and_its_errors(reference: Mapping[str, str]) -> None:
    told = section(reference["execution.md"], "StartExecution")
    for said in (
        "**Takes** [StartExecutionRequest](#startexecutionrequest).",
        "`POST /api/v1/projects/{project_id}/executions`; the body is the request without `project_id`.",
        "**Key**: one of the project in `project_id`, or the admin's.",
        "**HTTP statuses**: 200, 201, 400, ",
        "[ErrorReason](error-reason.md#errorreason)",
        "**Audit log**: `execution.start`.",
    ):
        assert said in told
    assert "none, gRPC alone" in section(reference["execution.md"], "WatchExecution")
    assert "**Key**: none." in section(reference["system.md"], "GetHealth")


def test_fields_tell_their_types_and_rules(reference: Mapping[str, str]) -> None:
    agent = section(reference["project.md"], "AgentConfig")
    assert "**`temperature`** (double; optional; ≥ 0; ≤ 1; finite): Sampling temperature, 0 to 1. Default 0.7." in agent
    assert (
        "**`mcp_servers`** (map from string to [McpServer](#mcpserver); ≤ 16 entries; keys length ≤ 32, like" in agent
    )
    assert "≤ 262,144 bytes" in agent
    assert "**`enabled_tools`** (list of string; ≤ 64 items; no item twice; each item like" in agent
    assert "must have either a command or a url" in section(reference["project.md"], "McpServer")
    assert "`agent.model` is required" in section(reference["project.md"], "CreateProjectRequest")
    assert "(string; required; a UUID): The project." in section(reference["project.md"], "GetProjectRequest")


def test_a_rule_that_has_no_words_is_refused(tmp_path: Path) -> None:
    protos = tmp_path / "cloutagent" / "v1"
    protos.mkdir(parents=True)
    for name in ("access", "audit", "error_reason"):
        (protos / f"{name}.proto").write_text((PROTOS / f"cloutagent/v1/{name}.proto").read_text())
    (protos / "mail.proto").write_text(
        'syntax = "proto3"; package cloutagent.v1;'
        'import "buf/validate/validate.proto"; import "google/api/annotations.proto";'
        'import "google/api/field_behavior.proto";'
        "message Mail { string to = 1 [(buf.validate.field).string.email = true]; }"
    )
    with pytest.raises(UnknownRule, match=r"string\.email"):
        pages(tmp_path)


def test_every_class_call_and_argument_of_the_python_client_is_there(reference: Mapping[str, str]) -> None:
    page = reference["python.md"]
    assert {name for name in cloutagent.__all__ if name not in ("errors", "types")} <= {*headings(page)}
    assert {each.__name__ for each in python.exceptions()} <= {*headings(page)}
    assert set(python.resources()) == {"projects", "keys", "secrets", "executions", "usage", "system"}
    told = section(page, "client.executions.run")
    assert "prompt: str, *, timeout: float | None = None, **options: Unpack[StartOptions], ) -> Execution" in told
    assert "- `prompt`: The prompt, a template." in told
    assert "- [ExecutionCancelledError](#executioncancellederror): It was cancelled." in told
    assert "Types: [StartOptions](#startoptions), [Execution](execution.md#execution)." in told
    assert "A kind of [BudgetExceededError](#budgetexceedederror) and of" in section(page, "BudgetUsedUpError")


def test_every_export_call_and_option_of_the_typescript_client_is_there(reference: Mapping[str, str]) -> None:
    page = reference["typescript.md"]
    sources = (exports_module.PACKAGE / "src" / "index.ts").read_text(encoding="utf-8")
    named = {name for group in re.findall(r"\{([^}]*)\}", sources) for name in re.findall(r"[A-Z]\w+", group)}
    resources = {"Projects", "Keys", "Secrets", "Executions", "UsageReports", "System"}
    assert named - resources <= {*headings(page)}
    assert {"client.setAPIKey", "client.keys.rotate", "client.usage.watch", "createTransport"} <= {*headings(page)}
    told = section(page, "client.executions.run")
    assert "client.executions.run(prompt: string, options?: RunOptions): Promise<Execution>" in told
    assert "- [ExecutionCancelledError](#executioncancellederror) if it was cancelled." in told
    assert "Types: [RunOptions](#runoptions), [Execution](execution.md#execution)." in told
    assert "- **`timeout?`** (`number`): Milliseconds that" in section(page, "CallOptions")
    assert "A kind of [ResourceExhaustedError](#resourceexhaustederror)." in section(page, "QueueFullError")
    assert "| `text_delta` | `textDelta` | [TextDeltaEvent](execution.md#textdeltaevent) |" in section(
        page, "ExecutionEvent"
    )
    assert "[GetExecutionCostResponse](execution.md#getexecutioncostresponse)" in section(page, "ExecutionCostReport")
    assert "[ApiKey](project.md#apikey): An API key of a project" in page


def test_the_typescript_client_says_of_all_that_it_exports_what_it_is() -> None:
    exported = [each for module in exports().values() for each in module]
    silent = [
        f"{each['name']}.{member['name']}"
        for each in exported
        for member in each.get("members", ())
        if member["kind"] != "constructor" and not member["comment"]
    ]
    silent += [each["name"] for each in exported if not each["comment"]]
    # Those are told by BudgetExceededError, to which their comments lead.
    told_elsewhere = ("BudgetUsedUpError.", "LimitExceededError.")
    assert [name for name in silent if not name.startswith(told_elsewhere)] == []
    assert len(exported) > 60


def test_exports_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "api.js").write_text("throw new Error('no such module')")
    monkeypatch.setattr(exports_module, "PACKAGE", tmp_path)
    with pytest.raises(CompilerFailed, match="no such module"):
        exports.__wrapped__()


def test_every_page_has_each_anchor_once(reference: Mapping[str, str]) -> None:
    for name, page in reference.items():
        anchors = [anchor(heading) for heading in headings(page)]
        assert len(anchors) == len(set(anchors)), name


def test_no_line_is_a_list_or_a_heading_by_the_way_it_was_wrapped(reference: Mapping[str, str]) -> None:
    for name, page in reference.items():
        prose = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
        assert not re.search(r"^ *(\+|\*|\d+[.)]|>) ", prose, re.MULTILINE), name


def test_names_in_texts_become_links_and_code_stays_code() -> None:
    links = Links("here.md", {"GetUsage": "there.md", "Usage": "here.md", "Failure.Reason": "here.md"})
    text = "As GetUsage; `GetUsage` a<b, Usage, a Failure.Reason, GetUsages, Unknown.\n\n- one\n  more\n- two"
    assert list(paragraphs(text, links)) == [
        "As [GetUsage](there.md#getusage); `GetUsage` a&lt;b, Usage, a [Failure.Reason](#failurereason), GetUsages, "
        "Unknown.\n",
        "- one more",
        "- two",
        "",
    ]
    assert item("word " * 40, 1).splitlines()[1].startswith("    word")
