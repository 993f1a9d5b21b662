"""Projects, keys, secrets, usage, models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cloutagent import Client
from cloutagent.cli.endings import CommandError
from cloutagent.cli.profiles import Profiles
from cloutagent.types import NewProject
from tests.command_line.conftest import ADMIN_KEY, MODEL
from tests.support.command_line.commands import Commands
from tests.support.command_line.server import ThreadedServer


@pytest.fixture
def operator(server: ThreadedServer) -> Commands:
    """Runs commands with the admin's key."""
    return Commands({"CLOUTAGENT_ADDRESS": server.url, "CLOUTAGENT_API_KEY": ADMIN_KEY})


NEW = ("project", "create", "Support", "--system-prompt", "You help.", "--model", MODEL)


def test_a_project_is_created_and_its_key_is_shown_once(operator: Commands, server: ThreadedServer) -> None:
    done = operator.ok(*NEW, "--max-cost", "0.5", "--timeout", "2min", "--daily-cost", "3", "--tool", "TodoWrite")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines() if not line.startswith(("a run", "api key")))
    key = next(line for line in done.out.splitlines() if line.startswith("api key")).split()[-1]
    assert lines["tools"] == "TodoWrite" and lines["budget"] == "$3.00 a day"
    assert "100,000 tokens, $0.50, 2 min" in done.out
    mine = Commands({"CLOUTAGENT_ADDRESS": server.url, "CLOUTAGENT_API_KEY": key})
    assert mine.ok("project", "show", "--json").json["id"] == lines["project"]
    assert key not in mine.ok("project", "show").out
    assert "shown this once" in done.err


def test_a_new_key_is_kept_in_a_profile_instead(
    operator: Commands, asked: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = operator.ok(*NEW, "--save-as", "support", "--json")
    assert set(done.json) == {"project"}
    kept = Profiles().get("support")
    assert kept is not None and kept.api_key is not None
    assert kept.project_id == done.json["project"]["id"]
    assert "apiKey" in operator.ok(*NEW, "--json").json
    assert operator(*NEW, "--save-as", "../x").code == 2
    asked()
    assert "api key" not in operator.ok(*NEW, stdin="second\n").out
    assert "api key" in operator.ok(*NEW, stdin="\n").out
    assert Profiles().names() == ["second", "support"]


def test_a_key_that_cannot_be_kept_is_shown(operator: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CommandError("no space is left")

    monkeypatch.setattr(Profiles, "put", full)
    done = operator.ok(*NEW, "--save-as", "support", "--json")
    assert done.json["apiKey"].startswith("cla_")
    assert "the key is not kept" in done.err


def test_a_project_may_come_from_a_file(operator: Commands, tmp_path: Path) -> None:
    file = tmp_path / "project.json"
    agent = {"name": "a", "systemPrompt": "s", "model": MODEL, "temperature": 0.1}
    file.write_text(json.dumps({"agent": agent, "budget": {"total": {"maxTokens": 9}}}))
    created = operator.ok("project", "create", "P", "--file", str(file), "--temperature", "0.9", "--json").json
    assert created["project"]["agent"]["temperature"] == 0.9
    assert created["project"]["agent"]["name"] == "a"
    assert created["project"]["budget"]["total"]["maxTokens"] == 9
    prompt = operator.ok("project", "create", "P", "--model", MODEL, "--system-prompt-file", "-", "--json", stdin="hm")
    assert prompt.json["project"]["agent"]["systemPrompt"] == "hm"
    file.write_text('{"agent": {"nam": 1}}')
    assert operator("project", "create", "P", "--file", str(file)).code == 2
    assert operator("project", "create", "P", "--file", str(tmp_path / "none")).code == 2
    assert operator(*NEW, "--system-prompt-file", str(file)).code == 2
    file.write_bytes(b"\xff")
    assert operator("project", "create", "P", "--file", str(file)).code == 2


def test_what_is_wrong_with_a_project_is_told_by_field(operator: Commands) -> None:
    done = operator("project", "create", "P", "--system-prompt", "s", "--model", "gpt-1", "--temperature", "7")
    assert done.code == 2
    assert "agent.temperature" in done.err and done.err.count("\n") == 1
    assert operator(*NEW, "--max-tokens", str(10**12)).code == 2


def test_a_project_is_changed_field_by_field(command: Commands, project: NewProject) -> None:
    changed = command.ok(
        "project", "update", "--description", "d", "--temperature", "0.1", "--tool", "TodoWrite", "--json"
    )
    assert (changed.json["description"], changed.json["agent"]["temperature"]) == ("d", 0.1)
    assert changed.json["agent"]["systemPrompt"] == "You help."
    reset = command.ok(
        "project", "update", project.project.id, "--reset", "description", "--reset", "agent.enabled_tools"
    )
    assert "TodoWrite" not in reset.out and "description" not in reset.out
    assert command("project", "update").code == 2


def test_projects_are_listed_and_deleted(operator: Commands, command: Commands, project: NewProject) -> None:
    assert [each["id"] for each in command.ok("project", "list", "--json").json["projects"]] == [project.project.id]
    assert project.project.id in operator.ok("project", "list").out
    assert operator("project", "delete", project.project.id).code == 2
    operator.ok("project", "delete", project.project.id, "--yes")
    assert command("project", "list").code == 3
    assert operator("project", "show", project.project.id).code == 4


def test_names_are_text_and_no_more(operator: Commands, command: Commands, client: Client) -> None:
    client.projects.update(name="[red]x[/red]\x1b[31m :smile:", description="a\r\nb\u202e")
    shown = "[red]x[/red][31m :smile:"
    for words in (["project", "list"], ["project", "show"], ["doctor"]):
        for done in (command.ok(*words), command.drawn(*words)):
            assert shown in done.out and "\u202e" not in done.out and "\x1b[31m" not in done.out
    command.ok("project", "list", "--json")
    assert command.ok("login", stdin=command.environment["CLOUTAGENT_API_KEY"] or "").out.count("\x1b") == 0


def test_the_admin_names_the_project(operator: Commands, project: NewProject) -> None:
    done = operator("secret", "list")
    assert done.code == 2 and "name it with --project" in done.err
    operator.ok("secret", "list", "--project", project.project.id)


def test_rotating_the_key_in_use_leaves_its_profile_with_the_new_one(stranger: Commands, project: NewProject) -> None:
    stranger.ok("login", stdin=project.api_key)
    done = stranger.ok("project", "rotate-key", "--grace-period", "0s")
    assert "cla_" not in done.out and "1 minute" not in done.err
    stranger.ok("project", "show")
    kept = Profiles().get("default")
    assert kept is not None and kept.api_key != project.api_key
    assert stranger("project", "show", CLOUTAGENT_API_KEY=project.api_key).code == 3
    rotated = stranger.ok("project", "rotate-key", "--json", CLOUTAGENT_API_KEY=kept.api_key)
    assert rotated.json["apiKey"].startswith("cla_") and "1 minute more" in rotated.err
    stranger.ok("key", "list", CLOUTAGENT_API_KEY=kept.api_key)


def test_keys_are_created_listed_rotated_and_revoked(command: Commands) -> None:
    created = command.ok("key", "create", "ci", "--expires", "30d", "--json").json
    assert created["apiKey"].startswith("cla_")
    key_id = created["key"]["id"]
    assert "api key" in command.ok("key", "rotate", key_id, "--grace-period", "5min").out
    assert "api key" not in command.ok("key", "create", "spare", "--save-as", "spare").out
    names = [line.split()[1] for line in command.ok("key", "list").out.splitlines()[1:]]
    assert sorted(names) == ["ci", "ci", "default", "spare"]
    assert command("key", "revoke", key_id).code == 2
    command.ok("key", "revoke", key_id, "--yes")
    assert len(command.ok("key", "list", "--json").json["keys"]) == 3
    last = command("key", "create", "ci", "--expires", "2020-01-01")
    assert last.code == 2


def test_a_secret_comes_from_the_standard_input_or_a_file(command: Commands, tmp_path: Path, client: Client) -> None:
    assert command.ok("secret", "set", "TOKEN", stdin="s3cret\n").out == "set TOKEN, version 1\n"
    assert command.ok("secret", "get", "TOKEN").out == "s3cret"
    file = tmp_path / "value"
    file.write_text("from a file\r\n", newline="")
    command.ok("secret", "set", "TOKEN", "--file", str(file), "--expected-version", "1", "--json")
    assert client.secrets.get("TOKEN") == "from a file\r\n"
    assert command("secret", "set", "TOKEN", "--expected-version", "1", stdin="x").code == 7
    assert command("secret", "set", "TOKEN", "s3cret").code == 2, "never as an argument"
    assert command("secret", "set", "TOKEN", "--file", str(tmp_path / "none")).code == 2
    assert command("secret", "set", "TOKEN", stdin=b"\xff").code == 2
    for endless in (command("secret", "set", "TOKEN", "--file", "/dev/zero"), command("run", "-", stdin="x" * 2**21)):
        assert endless.code == 2 and "bytes" in endless.err


def test_an_empty_value_comes_from_a_file_alone(command: Commands, tmp_path: Path, client: Client) -> None:
    for nothing in ("", "\n", "\r\n"):
        for more in ((), ("--file", "-")):
            refused = command("secret", "set", "TOKEN", *more, stdin=nothing)
            assert (refused.code, "the standard input is empty" in refused.err) == (2, True)
    assert list(client.secrets.list()) == []
    file = tmp_path / "value"
    file.touch()
    command.ok("secret", "set", "TOKEN", "--file", str(file))
    assert client.secrets.get("TOKEN") == ""


def test_secrets_have_versions(command: Commands) -> None:
    for value in ("one", "two"):
        command.ok("secret", "set", "TOKEN", stdin=value)
    assert command.ok("secret", "get", "TOKEN", "--version", "1", "--json").json == {"name": "TOKEN", "value": "one"}
    assert [each["version"] for each in command.ok("secret", "versions", "TOKEN", "--json").json["versions"]] == [2, 1]
    assert len(command.ok("secret", "versions", "TOKEN").out.splitlines()) == 3
    assert command.ok("secret", "restore", "TOKEN", "1").out == "set TOKEN, version 3\n"
    assert command.ok("secret", "restore", "TOKEN", "1", "--json").json["version"] == 4
    assert command.ok("secret", "list").out == "TOKEN\n"
    assert command.ok("secret", "list", "--json").json == {"names": ["TOKEN"]}
    assert command("secret", "delete", "TOKEN").code == 2
    command.ok("secret", "delete", "TOKEN", "--yes", "--json")
    assert command("secret", "get", "TOKEN").code == 4


def test_a_secret_does_not_control_the_terminal(command: Commands) -> None:
    command.ok("secret", "set", "TOKEN", stdin="a\x1b[31mb")
    assert command.ok("secret", "get", "TOKEN").out == "a\x1b[31mb"
    assert command.drawn("secret", "get", "TOKEN").out == "a[31mb\n"


def test_usage_is_a_chart_on_a_terminal_and_a_table_elsewhere(command: Commands, client: Client) -> None:
    client.projects.update(update_mask=["budget.daily.max_cost"], budget={"daily": {"max_cost": 2}})  # type: ignore[arg-type]
    client.executions.run("three calls")
    assert command.ok("usage", "--json").json["sum"]["modelCalls"] == 3
    plain = command.ok("usage").out.splitlines()
    assert plain[0].split() == ["DAY", "MODEL", "CALLS", "IN", "OUT", "COST"]
    assert plain[1].split()[1:] == [MODEL, "3", "300", "60", "$0.001800"]
    drawn = command.drawn("usage").out
    assert "█" in drawn and "daily cost" in drawn and "of $2.00" in drawn and "$0.001800" in drawn
    assert "360" in command.drawn("usage", "--by", "tokens").out
    assert command("usage", "--from", "tomorrow").code == 2


def test_usage_of_nothing_is_told(command: Commands) -> None:
    assert "0 calls" in command.ok("usage").out
    assert "all" in command.drawn("usage").out


def test_models_have_their_prices(command: Commands) -> None:
    listed = command.ok("models").out
    line = next(line for line in listed.splitlines() if line.split()[0] == MODEL)
    assert line.split()[-2:] == ["3.00", "15.00"]
    assert MODEL in [each["id"] for each in command.ok("models", "--json").json["models"]]
