"""What the pages of the examples do not show: they are run by test_pages.py."""

from __future__ import annotations

import csv
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cloutagent import Client
from cloutagent.errors import ConfigurationError
from cloutagent.types import AgentConfig, Limits
from cloutagent_server.engine.local_model import ScriptLibrary
from cloutagent_server.engine.local_model.script import Tool
from examples import projects
from examples.code_reviewer.main import Finding, findings
from tests.documentation.conftest import DocumentedStack
from tests.documentation.snippets import REPOSITORY

AGENT = AgentConfig(name="a", system_prompt="s", model="claude-sonnet-4-5")
ANALYST = REPOSITORY / "examples" / "data_analyst"


@pytest.fixture
def keys(stack: DocumentedStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the examples' keys, which is empty. The examples talk to the stack, without a key of their own."""
    monkeypatch.setenv("CLOUTAGENT_ADDRESS", stack.url)
    monkeypatch.delenv("CLOUTAGENT_API_KEY", raising=False)
    monkeypatch.setattr(projects, "KEYS", tmp_path / "keys")
    return tmp_path / "keys"


@pytest.mark.e2e
def test_the_project_of_an_example_is_found_again(keys: Path) -> None:
    key = projects.open_project("one", AGENT)
    (kept,) = keys.iterdir()
    assert (stat.S_IMODE(keys.stat().st_mode), stat.S_IMODE(kept.stat().st_mode)) == (0o700, 0o600)
    assert kept.read_text() == key
    assert projects.open_project("one", AGENT, limits=Limits(max_tokens=7)) == key
    with Client(api_key=key) as client:
        assert client.projects.get().limits.max_tokens == 7
    kept.write_text(f"cla_{'0' * 100}")
    anew = projects.open_project("one", AGENT)
    assert anew != key
    assert kept.read_text() == anew
    with Client(api_key=anew) as client:
        assert client.projects.get().name == "one"


@pytest.mark.e2e
@pytest.mark.usefixtures("keys")
def test_those_who_run_an_example_for_the_first_time_at_once_share_a_project() -> None:
    together = Barrier(4)

    def open_project(_: int) -> str:
        together.wait()
        return projects.open_project("shared", AGENT)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(open_project, range(4)))) == 1


@pytest.mark.e2e
def test_a_key_goes_to_the_address_that_it_came_from_alone(
    stack: DocumentedStack, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = projects.open_project("one", AGENT)
    monkeypatch.setenv("CLOUTAGENT_ADDRESS", stack.url.replace("127.0.0.1", "localhost"))
    assert projects.open_project("one", AGENT) != key
    assert len(list(keys.iterdir())) == 2


@pytest.mark.e2e
def test_the_key_of_a_project_in_the_environment_is_taken(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        own = client.projects.create(name="one", agent=AGENT)
    monkeypatch.setenv("CLOUTAGENT_API_KEY", own.api_key)
    assert projects.open_project("one", AGENT, limits=Limits(max_tokens=7)) == own.api_key
    with Client() as client:
        assert client.projects.get().limits.max_tokens == 7
    with pytest.raises(ConfigurationError, match="'one'"):
        projects.open_project("two", AGENT)
    assert not keys.exists()


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
