"""How the command is started, what it costs the package, and what becomes of faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import cloutagent.cli
from cloutagent.cli import app
from cloutagent.errors import CloutAgentError
from tests.support.command_line.commands import Commands
from tests.support.command_line.terminal import COMMAND, environment

PROJECT = Path(__file__).parents[2] / "clients/python/pyproject.toml"
SERVER = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_command_is_an_entry_point_with_an_extra() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert project["scripts"] == {"cloutagent": "cloutagent.cli:main"}
    assert sorted(each.split(">")[0] for each in project["optional-dependencies"]["cli"]) == ["rich", "typer"]
    assert {*project["optional-dependencies"]["cli"]} <= {*tomllib.loads(SERVER.read_text())["project"]["dependencies"]}


def test_the_package_knows_nothing_of_terminals() -> None:
    code = "import sys, cloutagent; cloutagent.Client; print({'typer', 'rich', 'cloutagent.cli'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_python_m_cloutagent_is_the_command() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cloutagent {version('cloutagent')}\n"


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str, *rest: Any) -> Any:
        return None if name in ("typer", "rich") else find_spec(name, *rest)

    monkeypatch.setattr("cloutagent.cli.find_spec", found)
    with pytest.raises(SystemExit) as ended:
        cloutagent.cli.main()
    assert ended.value.code == "cloutagent: the command line needs typer and rich: pip install 'cloutagent[cli]'"


def test_a_fault_of_the_command_itself_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(app, "cli", lambda prog_name: fail())
    with pytest.raises(SystemExit) as ended:
        app.run()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "cloutagent: a fault of the command itself: RuntimeError('two\\nlines')\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "/ca.pem"), 2, "/ca.pem: No such file or directory"),
        (CloutAgentError("odd"), 1, "odd"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, code: int, line: str, stranger: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("cloutagent.cli.session.connect", fail)
    done = stranger("models")
    assert (done.code, done.out, done.err) == (code, "", f"cloutagent: {line}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["run"],
        ["run", "x", "--max-tokens", "0"],
        ["run", "x", "--var", "novalue"],
        ["run", "x", "--timeout", "soon"],
        ["watch", "x", "--from-event", "0"],
        ["usage", "--by", "moon"],
        ["run", "x", "--max-tokens", "99999999999999999999"],
        ["run", "x", "--timeout", "60d"],
        ["watch", "x", "--from-event", "99999999999"],
        ["executions", "--limit", "99999999999999999999"],
        ["secret", "get", "X", "--version", "99999999999999"],
        ["secret", "set", "X", "--expected-version", "99999999999999"],
        ["secret", "restore", "X", "99999999999999"],
        ["key", "rotate", "x", "--grace-period", "99999999d"],
        ["project", "update", "--max-tokens", "99999999999999999999"],
        ["run", "\udcff"],
        ["run", "x", "--label", "a=\udcff"],
        ["secret", "get", "\udcff"],
        ["watch", "\udcff"],
        ["models", "--address", "http://\udcff"],
        ["models", "--profile", "\udcff"],
        ["models", "--address", "ftp://x"],
        ["models", "--address", "http://agents.example"],
    ],
)
def test_wrong_usage_exits_with_2(words: list[str], command: Commands) -> None:
    done = command(*words)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_the_key_of_a_plain_address_elsewhere_is_not_sent(command: Commands) -> None:
    done = command("models", "--address", "http://agents.example")
    assert "plain text" in done.err and "cla_" not in done.err


def test_nor_is_a_secret_without_a_key(stranger: Commands) -> None:
    done = stranger("secret", "set", "TOKEN", "--address", "http://agents.example", stdin="s3cret")
    assert done.code == 2 and "plain text" in done.err and "s3cret" not in done.err


def test_without_a_server_it_exits_with_6_and_a_start_says_how_to_repeat_it(command: Commands) -> None:
    done = command("run", "x", "--address", "http://127.0.0.1:9", "--project", "6d0f2c1e-0000-4000-8000-000000000000")
    assert done.code == 6
    assert done.err.count("\n") == 1
    assert "repeat it with --idempotency-key " in done.err and "`cloutagent doctor`" in done.err


def test_nothing_is_drawn_into_a_file_and_a_closed_input_is_told(command: Commands) -> None:
    variables = environment({**command.environment, "FORCE_COLOR": "1"})
    drawn = subprocess.run([*COMMAND, "run", "Greet Ada."], capture_output=True, text=True, check=True, env=variables)
    assert drawn.stdout == "echo: Greet Ada.\n" and "\x1b" not in drawn.stderr
    closed = subprocess.run(
        ["bash", "-c", '"$@" <&-', "bash", *COMMAND, "run", "-"], capture_output=True, text=True, env=variables
    )
    assert (closed.returncode, closed.stderr) == (2, "cloutagent: the standard input is closed\n")


@pytest.mark.parametrize("words", [("profile", "list"), ("profile", "list", "--json"), ("--version",)])
@pytest.mark.parametrize("full", [True, False])
def test_output_that_cannot_be_written_is_a_failure(
    full: bool, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cloutagent", *words])
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(os.open("/dev/full", os.O_WRONLY) if full else write, "w", encoding="utf-8") as out:
        monkeypatch.setattr("sys.stdout", out)
        with pytest.raises(SystemExit) as ended:
            app.run()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert told.endswith("put: No space left on device\n") and told.count("\n") == 1 if full else told == ""


def test_ctrl_c_in_the_imports_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def terminate(_: str) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("cloutagent.cli.find_spec", terminate)
    with pytest.raises(SystemExit) as ended:
        cloutagent.cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "cloutagent: interrupted\n")


@pytest.mark.parametrize("words", [[], ["project"], ["executions"], ["run"], ["secret", "set"]])
def test_help_is_there(words: list[str], stranger: Commands) -> None:
    out = stranger.ok(*words, "--help").out
    assert "Usage:" in out and "<bool>" not in out
