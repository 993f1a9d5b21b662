"""What the pages of the examples do not show: they are run by test_pages.py."""

from __future__ import annotations

import csv
import stat
from collections import Counter
from pathlib import Path

import pytest

from cloutagent import Client
from cloutagent.types import AgentConfig, Limits
from cloutagent_server.engine.local_model import ScriptLibrary
from cloutagent_server.engine.local_model.script import Tool
from examples import projects
from examples.code_reviewer.main import Finding, findings
from tests.documentation.conftest import DocumentedStack
from tests.documentation.snippets import REPOSITORY

ANALYST = REPOSITORY / "examples" / "data_analyst"


@pytest.mark.e2e
def test_the_project_of_an_example_is_found_again(
    stack: DocumentedStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUTAGENT_ADDRESS", stack.url)
    monkeypatch.delenv("CLOUTAGENT_API_KEY", raising=False)
    monkeypatch.setattr(projects, "KEYS", tmp_path / "keys")
    agent = AgentConfig(name="a", system_prompt="s", model="claude-sonnet-4-5")
    key = projects.open_project("one", agent)
    kept = tmp_path / "keys" / "one"
    assert (stat.S_IMODE(kept.stat().st_mode), kept.read_text()) == (0o600, key)
    assert projects.open_project("one", agent, limits=Limits(max_tokens=7)) == key
    with Client(api_key=key) as client:
        assert client.projects.get().limits.max_tokens == 7
    kept.write_text("cla_00000000-0000-4000-8000-000000000000")
    assert projects.open_project("one", agent) not in (key, "cla_00000000-0000-4000-8000-000000000000")


def test_the_figures_of_the_analyst_are_those_of_the_file() -> None:
    data = (ANALYST / "sales.csv").read_text()
    sums: Counter[str] = Counter()
    for row in csv.DictReader(data.splitlines()):
        sums[row["product"]] += round(int(row["units"]) * float(row["price"]) * 100)
    lines = "\n".join(f"{product} {cents / 100:.2f}" for product, cents in sums.most_common())
    assert f"[answer: {lines}]" in (ANALYST / "README.md").read_text()
    steps = ScriptLibrary.read(ANALYST).answer("Which product brought in the most money?")
    assert data in [step.input.get("content") for step in steps if isinstance(step, Tool)]


def test_the_findings_of_a_review_are_read() -> None:
    found = findings('I tried it. {"findings": [{"file": "a", "line": 1, "severity": "note", "message": "m"}]}')
    assert found == [Finding("a", 1, "note", "m")]


@pytest.mark.parametrize(
    "result",
    [
        "It is fine.",
        "{}",
        '{"findings": [{"file": "a"}]}',
        '{"findings": [{"file": "a", "line": 1, "severity": "bad", "message": "m"}]}',
        '{"findings": []} and more',
    ],
)
def test_a_review_that_is_not_what_was_asked_for_is_refused(result: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (of json, of str.index and of our own)
        findings(result)
