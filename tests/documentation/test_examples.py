"""What the pages of the examples do not show: they are run by test_pages.py."""

from __future__ import annotations

import csv
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import cast

import pytest

from cloutagent import AsyncClient, Client
from cloutagent.errors import ConfigurationError
from cloutagent.types import AgentConfig, Execution, ExecutionEvent, Limits
from cloutagent_server.engine.local_model import ScriptLibrary
from cloutagent_server.engine.local_model.script import Tool
from examples import projects
from examples.code_reviewer.main import Finding, findings
from examples.data_analyst import main as data_analyst
from examples.email_responder import main as email_responder
from examples.email_responder.mail import draft, read
from examples.researcher.main import research
from examples.support_assistant import crm
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


@pytest.mark.parametrize(
    "before", ["", "I tried it. ", 'A set {1, 2}, an object {"findings": []}, f{', '{"findings": []}\n{{"a": ']
)
def test_the_findings_of_a_review_are_those_that_it_ends_with(before: str) -> None:
    found = findings(before + '{"findings": [{"file": "a", "line": 1, "severity": "note", "message": "{m}"}]}\n')
    assert found == [Finding("a", 1, "note", "{m}")]
    assert findings(before + '{"summary": "{}", "findings": []}') == []


@pytest.mark.parametrize(
    "result",
    [
        "",
        "It is fine.",
        "{}",
        "[]",
        '{"findings": {}}',
        '{"findings": ""}',
        '{"findings": null}',
        '{"findings": ["a"]}',
        '{"findings": [{"file": "a", "line": "1", "severity": "note", "message": "m"}]}',
        '{"findings": [{"file": "a", "line": true, "severity": "note", "message": "m"}]}',
        '{"findings": [{"file": "a", "line": 1, "severity": [], "message": "m"}]}',
        '{"findings": [{"file": "a", "line": 1, "severity": "note", "message": "m", "more": 1}]}',
        '{"findings": [{"file": "a"}]}',
        '{"findings": [{"file": "a", "line": 1, "severity": "bad", "message": "m"}]}',
        '{"findings": []} and more',
    ],
)
def test_a_review_that_is_not_what_was_asked_for_is_refused(result: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (how it says so does not matter)
        findings(result)


class Executions:
    """Runs that have ended, as the researcher asks for them."""

    def __init__(self, status: Execution.Status.ValueType) -> None:
        self.ended = Execution(id="one", status=status, result="half of it")

    async def start(self, _: str, **_options: object) -> Execution:
        return self.ended

    async def get(self, _: str) -> Execution:
        return self.ended

    @asynccontextmanager
    async def watch(self, _: str) -> AsyncIterator[AsyncIterator[ExecutionEvent]]:
        async def events() -> AsyncIterator[ExecutionEvent]:
            return
            yield

        yield events()


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (Execution.Status.completed, "the risks: half of it"),
        (Execution.Status.cancelled, None),
        (Execution.Status.failed, None),
    ],
)
async def test_what_was_not_researched_to_the_end_is_no_research(
    status: Execution.Status.ValueType, found: str | None
) -> None:
    client = cast("AsyncClient", SimpleNamespace(executions=Executions(status)))
    assert await research(client, "tides", "the risks") == found


def test_a_file_that_is_not_utf_8_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "sales.csv"
    file.write_text("köln,1\n", encoding="latin-1")
    monkeypatch.setattr(sys, "argv", ["main", "--file", str(file)])
    assert data_analyst.main() == 1
    assert capsys.readouterr().out == f"not answered: {file} is not UTF-8; iconv makes it so\n"


def test_the_crm_tells_a_customer_of_their_own_orders_alone() -> None:
    def order(number: str, customer: str) -> object:
        return crm.answer("tools/call", {"name": "order", "arguments": {"number": number}}, customer)

    assert "reading lamp" in str(order("1042", "Ada"))
    of_nobody = str(order("7", "Eve")).replace("7", "1042")
    assert str(order("1042", "Eve")) == of_nobody


def mail(folder: Path, name: str, *headers: str, text: str = "Are you open?", charset: str = "utf-8") -> Path:
    """A mail in a file, from Ada if no header says otherwise."""
    own = [] if any(header.startswith("From:") for header in headers) else ["From: Ada <ada@example.org>"]
    lines = [*own, *headers, f"Content-Type: text/plain; charset={charset}", "", text, ""]
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.e2e
@pytest.mark.usefixtures("keys")
def test_a_mail_that_cannot_be_answered_does_not_keep_the_others_from_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    mail(inbox, "1.eml", charset="klingon")
    mail(inbox, "2.eml", "From: nobody")
    long = f"From: {'a' * 300}@example.org"
    mail(inbox, "3.eml", long, "Subject: no id")
    mail(inbox, "4.eml", long, "Subject: no id, either", text="And on Sunday?")
    mail(inbox, "5.eml", "Subject: =?utf-8?q?a=0Ab?=", "Message-ID: <5@example.org>")
    mail(inbox, "6.eml", "Subject: changed", "Message-ID: <5@example.org>", text="And on Sunday?")
    mail(inbox, "7.eml", "From: mallory@example.net", "Subject: stolen", "Message-ID: <5@example.org>")
    mail(inbox, "8.eml", "Subject: robot", "Auto-Submitted: auto-replied", text="")
    mail(inbox, "9.eml", "Subject: nothing", text=" ")
    monkeypatch.setattr(sys, "argv", ["main", "--inbox", str(inbox)])

    def told() -> str:
        assert email_responder.main() == 1
        printed = capsys.readouterr().out
        assert "\n4 mails were answered" in printed
        return printed

    text = told()
    assert "1.eml: left for a colleague: it cannot be read: unknown encoding: klingon" in text
    assert "2.eml: left for a colleague: it has no address to answer to" in text
    for subject in ("no id", "no id, either", "a b", "changed", "stolen"):
        assert f": Re: {subject}; " in text
    assert text.count("answered before, by ") == 1
    assert "8.eml: robot, from Ada <ada@example.org>\nnot answered: a program sent it" in text
    assert "9.eml: nothing, from Ada <ada@example.org>\nleft for a colleague: it has no text" in text

    monkeypatch.setattr(email_responder, "PROMPT", "Answer this: {{body}} {{subject}} {{sender}}")
    again = told()
    assert again.count("answered before, by ") == 5
    assert again.count("left for a colleague") == 3


@pytest.mark.parametrize("beside_an_empty_text", [False, True])
def test_a_mail_that_is_html_alone_has_what_its_reader_sees(tmp_path: Path, beside_an_empty_text: bool) -> None:
    html = (
        "<html><head><title>t</title><style>p {}</style><body><script>s()</script>"
        "<p>Are you <b>op</b>en on\nSunday &amp; Monday?</p><table><tr><td>yes<td>no</table>Bye<br>Ada<img></body>"
    )
    message = EmailMessage()
    message["From"] = "Ada <ada@example.org>"
    if beside_an_empty_text:
        message.set_content(" \n")
        message.add_alternative(html, subtype="html")
    else:
        message.set_content(html, subtype="html")
    path = tmp_path / "a.eml"
    path.write_bytes(message.as_bytes())
    assert read(path).body == "Are you open on Sunday & Monday?\nyes\nno\nBye\nAda"


def test_an_answer_is_the_same_mail_whenever_it_is_made_and_says_that_a_program_wrote_it(tmp_path: Path) -> None:
    asked = read(mail(tmp_path, "a.eml", "To: office@example.com", "Subject: Hours", "Message-ID: <1@example.org>"))
    reply, again = draft(asked, "Yes."), draft(asked, "Yes.")
    assert reply.as_bytes() == again.as_bytes()
    assert (reply["In-Reply-To"], reply["Auto-Submitted"]) == ("<1@example.org>", "auto-replied")
    other = read(mail(tmp_path, "b.eml", "Subject: Hours", "Message-ID: <2@example.org>"))
    assert draft(other, "Yes.")["Message-ID"] != reply["Message-ID"]
    reply.set_content("It comes back.")
    (tmp_path / "c.eml").write_bytes(reply.as_bytes())
    assert read(tmp_path / "c.eml").automatic


@pytest.mark.parametrize(
    ("header", "automatic"),
    [
        ("Auto-Submitted: auto-generated; owner-email=a@example.org", True),
        ("Auto-Submitted: No", False),
        ("Precedence: bulk", True),
        ("Precedence: first-class", False),
        ("Return-Path: <>", True),
        ("From: Mail Delivery <MAILER-DAEMON@example.org>", True),
        ("From: Mailer <mailer@example.org>", False),
    ],
)
def test_what_a_program_sent_is_known(header: str, automatic: bool, tmp_path: Path) -> None:
    assert read(mail(tmp_path, "a.eml", header)).automatic is automatic
