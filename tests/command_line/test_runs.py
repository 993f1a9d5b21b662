"""`run`, `watch`, `cancel` and `executions`."""

from __future__ import annotations

import json
import re

from cloutagent import Client
from cloutagent.types import Execution
from tests.support.command_line.commands import Commands
from tests.support.fake_engine import FakeEngine, answer, ask, message, report, tool_answers, use_tool, write

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def test_a_run_writes_the_text_alone_to_the_standard_output(command: Commands) -> None:
    done = command.ok("run", "tool for {{who}}", "--var", "who=Ada")
    assert done.out == "echo: tool for Ada\n"
    lines = done.err.splitlines()
    assert lines[0] == "· started with claude-sonnet-4-5"
    assert lines[1] == '→ Read {"file_path": "notes.txt"}'
    assert lines[2] == "← the notes"
    assert re.fullmatch(rf"execution {UUID} completed after 0\.\d s, 200 tokens in, 40 out, \$0\.\d+", lines[-1])


def test_a_run_as_json_is_one_event_a_line(command: Commands) -> None:
    done = command.ok("run", "Greet Ada.", "--json")
    kinds = [event["kind"] for event in done.events]
    assert kinds[0] == "queued" and kinds[-1] == "completed"
    assert [event["sequence"] for event in done.events] == list(range(1, len(kinds) + 1))
    assert done.events[-1]["completed"]["result"] == "echo: Greet Ada."
    assert done.err == ""


def test_the_prompt_may_come_from_the_standard_input(command: Commands) -> None:
    assert command.ok("run", "-", stdin="Greet\nAda.").out == "echo: Greet\nAda.\n"


def test_a_run_that_fails_says_why_and_exits_with_1(command: Commands) -> None:
    done = command("run", "fail now")
    assert done.code == 1
    assert "failed after" in done.err and "the model is overloaded" in done.err


def test_a_run_that_a_limit_ends_exits_with_5(command: Commands) -> None:
    assert command("run", "three calls", "--max-tokens", "150").code == 5
    assert command("run", "hang", "--timeout", "1s").code == 5


def test_a_run_has_limits_labels_and_an_idempotency_key(command: Commands, client: Client) -> None:
    words = ["run", "Greet Ada.", "--max-tokens", "9000", "--max-cost", "0.5", "--timeout", "90s", "--label", "team=a"]
    first = command.ok(*words, "--idempotency-key", "once", "--detach").out.strip()
    again = command.ok(*words, "--idempotency-key", "once", "--detach").out.strip()
    assert first == again
    execution = client.executions.get(first)
    assert (execution.limits.max_tokens, execution.limits.max_cost, execution.limits.timeout) == (9000, 0.5, 90_000)
    assert dict(execution.labels) == {"team": "a"}
    assert command("run", "Another.", "--idempotency-key", "once").code == 7


def test_a_run_that_is_left_writes_its_id_and_goes_on(command: Commands, client: Client) -> None:
    execution_id = command.ok("run", "hang", "--detach").out.strip()
    assert command.ok("run", "Greet Ada.", "--detach", "--json").json["prompt"] == "Greet Ada."
    done = command.ok("cancel", execution_id)
    assert done.out == f"cancelled {execution_id}, $0.000600 used\n"
    assert client.executions.get(execution_id).status == Execution.Status.cancelled
    assert command.ok("cancel", execution_id, "--json").json["status"] == "cancelled"
    watched = command("watch", execution_id)
    assert watched.code == 1
    assert "cancelled after" in watched.err


def test_a_dry_run_estimates_and_starts_nothing(command: Commands, client: Client) -> None:
    done = command.ok("run", "Greet Ada.", "--validate-only")
    assert "within the limits" in done.out
    assert command("run", "Greet Ada.", "--validate-only", "--max-cost", "0.000001").code == 5
    assert command.ok("run", "Greet Ada.", "--validate-only", "--json").json["model"] == "claude-sonnet-4-5"
    assert list(client.executions.list()) == []


def test_a_watch_begins_where_it_is_told(command: Commands, client: Client) -> None:
    execution = client.executions.run("Greet Ada.")
    whole = command.ok("watch", execution.id, "--json").events
    assert command.ok("watch", execution.id, "--json", "--from-event", "4").events == whole[3:]
    assert command.ok("watch", execution.id).out == "echo: Greet Ada.\n"
    late = command.ok("watch", execution.id, "--from-event", str(execution.last_sequence))
    assert late.out == "" and "completed after" in late.err
    beyond = command("watch", execution.id, "--from-event", "1000")
    assert beyond.code == 7
    assert "what is kept begins with --from-event 1" in beyond.err


def test_a_watch_behind_the_last_event_tells_how_the_run_ended(command: Commands, client: Client) -> None:
    done = client.executions.run("Greet Ada.")
    behind = command.ok("watch", done.id, "--from-event", str(done.last_sequence + 1))
    assert "completed after" in behind.err and "100 tokens in" in behind.err
    command("run", "fail now")
    failed = next(client.executions.list())
    behind = command("watch", failed.id, "--from-event", str(failed.last_sequence + 1))
    assert behind.code == 1 and "the model is overloaded" in behind.err


def test_what_happens_is_not_put_into_the_text(command: Commands, engine: FakeEngine) -> None:
    near = [ask(100), report(170, 1), write("be"), report(10, 1), write("fore"), message("before"), answer("before")]
    engine.script = lambda prompt: near
    done = command.ok("run", "Go.", "--max-tokens", "200")
    assert done.out == "before\n"
    assert "! 85 % of the limit on tokens is used" in done.err or "! 8" in done.err


def test_what_others_wrote_does_not_control_the_terminal(command: Commands, engine: FakeEngine) -> None:
    evil = "[bold]\x1b[31mred\x1b]0;title\x07\x9b2J\u202e:smile:\r\n"
    tool = [use_tool("t", f"Read{evil}", {"a": evil}), tool_answers("t", evil, is_error=True)]
    engine.script = lambda prompt: [ask(), report(100, 20), *tool, write(evil), message(evil), answer(evil)]
    for done in (command.ok("run", "Go."), command.drawn("run", "Go."), command.ok("run", "Go.", "--json")):
        for text in (done.out, done.err):
            left = re.sub(r"\x1b\[(\?25[lh]|2K|1A|[\d;]*m)", "", text)
            assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", left), text
            assert "[31m" not in text or "[bold]" in text, "what is left of it is shown as it is"
    assert "[bold][31mred]0;title2J:smile:" in command.ok("run", "Go.").out


def test_a_drawn_run_keeps_its_text_and_ends_with_a_table(command: Commands) -> None:
    done = command.drawn("run", "tool for Ada")
    assert done.code == 0
    for expected in ("→ Read", "← the notes", "echo: tool for Ada", "completed", "tokens", "240", "100,000", "$10.00"):
        assert expected in done.out
    assert command.drawn("run", "fail now").code == 1


def test_a_long_drawn_text_is_there_once(command: Commands, engine: FakeEngine) -> None:
    words = [f"word{number}" for number in range(200)]
    text = " ".join(words) + "\nand a last line"
    pieces = [write(text[index : index + 7]) for index in range(0, len(text), 7)]
    engine.script = lambda prompt: [ask(), report(100, 20), *pieces, message(text), answer(text)]
    drawn = re.sub(r"\r(\x1b\[2K|\x1b\[1A)+", "", command.drawn("run", "Go.").out)
    for word in words:
        assert re.search(rf"\b{word}\b", drawn)


def test_executions_are_listed_with_filters(command: Commands, client: Client) -> None:
    done = client.executions.run("Greet Ada.", labels={"team": "a"})
    command("run", "fail now")
    listed = command.ok("executions", "--json").json["executions"]
    assert [each["status"] for each in listed] == ["failed", "completed"]
    assert command.ok("executions", "--status", "completed", "--json").json["executions"][0]["id"] == done.id
    assert len(command.ok("executions", "list", "--limit", "1", "--json").json["executions"]) == 1
    assert len(command.ok("executions", "--label", "team=a", "--json").json["executions"]) == 1
    assert command.ok("executions", "--since", "2020-01-01", "--until", "2h", "--json").json["executions"] == []
    lines = command.ok("executions", "--since", "1h").out.splitlines()
    assert lines[0].split() == ["EXECUTION", "STATUS", "AGE", "TOKENS", "COST", "PROMPT"]
    assert done.id in lines[2] and lines[2].endswith("Greet Ada.")
    assert done.id in command.drawn("executions").out
    assert command("executions", "--status", "drunk").code == 2
    assert command("executions", "--since", "yesterday").code == 2


def test_an_execution_is_shown_with_its_receipt_and_deleted(command: Commands, client: Client) -> None:
    execution = client.executions.run("Greet Ada.")
    shown = command.ok("executions", "show", execution.id).out
    assert "completed" in shown and shown.endswith("\necho: Greet Ada.\n")
    assert command.ok("executions", "show", execution.id, "--json").json["result"] == "echo: Greet Ada."
    receipt = command.ok("executions", "receipt", execution.id).out
    assert client.executions.receipt(execution.id).log.sha256 in receipt
    assert len(command.ok("executions", "receipt", execution.id, "--json").json["calls"]) == 1
    refused = command("executions", "delete", execution.id)
    assert refused.code == 2 and "--yes" in refused.err
    command.ok("executions", "delete", execution.id, "--yes")
    gone = command("executions", "show", execution.id)
    assert gone.code == 4
    assert re.fullmatch(
        rf"cloutagent: the execution does not exist \(NOT_FOUND, EXECUTION_NOT_FOUND, request {UUID}\)\n", gone.err
    )


def test_json_is_made_for_terminals_too(command: Commands) -> None:
    done = command.ok("run", "caf\u00e9 \x9b31m \u202e", "--json")
    assert "\x9b" not in done.out and "\u202e" not in done.out and "caf\u00e9" in done.out
    assert json.loads(done.out.splitlines()[-1])["completed"]["result"] == "echo: caf\u00e9 \x9b31m \u202e"
