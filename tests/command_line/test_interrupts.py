"""Ctrl-C while a run is followed: a real process, on a real terminal or without one."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cloutagent import Client, errors
from cloutagent._sync.executions import Executions
from cloutagent.cli.following import Following, Signal, interruptible
from cloutagent.cli.holding import held
from cloutagent.types import Execution
from tests.support.command_line.commands import Commands
from tests.support.command_line.server import ThreadedServer
from tests.support.command_line.terminal import CTRL_C, on_terminal, without_terminal
from tests.support.fake_engine import FakeEngine, ask, hang, report, wait_for, write

ESCAPE = "\x1b"
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
ASKED = r"go on\? \(c/d/g\) \[g\]: ?"


@pytest.fixture
def only_run(client: Client) -> OnlyRun:
    return OnlyRun(client)


class OnlyRun:
    """The one execution of the project."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def status(self) -> str:
        """Where it stands."""
        (execution,) = self._client.executions.list()
        return Execution.Status.Name(execution.status)


def test_ctrl_c_asks_and_goes_on_or_cancels(command: Commands, only_run: OnlyRun) -> None:
    with on_terminal("run", "hang", variables=command.environment) as terminal:
        terminal.expect("running")
        terminal.expect("120 of 100,000")
        terminal.press(CTRL_C)
        terminal.expect(ASKED)
        terminal.press("what?\r")
        terminal.expect(ASKED)
        terminal.press("g\r")
        terminal.expect("running")
        assert only_run.status == "running"
        terminal.press(CTRL_C)
        terminal.expect(ASKED)
        terminal.press("c\r")
        terminal.expect("cancelled")
        terminal.expect("model calls")
        assert terminal.end() == 130
    assert only_run.status == "cancelled"
    assert terminal.shown.rfind(SHOW_CURSOR) > terminal.shown.rfind(HIDE_CURSOR)


def test_a_second_ctrl_c_leaves_the_run_alone(command: Commands, only_run: OnlyRun, client: Client) -> None:
    with on_terminal("run", "hang", variables=command.environment) as terminal:
        terminal.expect("120 of 100,000")
        terminal.press(CTRL_C)
        terminal.expect(ASKED)
        terminal.press(CTRL_C)
        told = terminal.expect(r"the run goes on; watch it with: cloutagent watch (\S+) --from-event (\d+)")
        assert terminal.end() == 130
    assert only_run.status == "running"
    client.executions.cancel(told[1])
    assert command("watch", told[1], "--from-event", told[2]).code == 1


def test_without_a_terminal_ctrl_c_leaves_the_run_alone(command: Commands, only_run: OnlyRun, client: Client) -> None:
    with without_terminal("run", "hang", variables=command.environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stderr.readline().startswith("· started")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    told = re.fullmatch(r"the run goes on; watch it with: cloutagent watch (\S+) --from-event \d+\n", err)
    assert told is not None and only_run.status == "running"
    client.executions.cancel(told[1])


def test_sigterm_leaves_the_run_alone_and_asks_nobody(command: Commands, only_run: OnlyRun, client: Client) -> None:
    with on_terminal("run", "hang", variables=command.environment) as terminal:
        terminal.expect("120 of 100,000")
        terminal.terminate()
        told = terminal.expect(r"the run goes on; watch it with: cloutagent watch (\S+)")
        assert terminal.end() == 130
    assert only_run.status == "running"
    assert terminal.shown.rfind(SHOW_CURSOR) > terminal.shown.rfind(HIDE_CURSOR)
    client.executions.cancel(told[1])


def test_a_reader_that_leaves_does_not_end_the_run(
    command: Commands, only_run: OnlyRun, client: Client, server: ThreadedServer, engine: FakeEngine
) -> None:
    left = asyncio.Event()
    engine.script = lambda prompt: [ask(), report(100, 20), wait_for(left), write("x"), hang()]
    with without_terminal("run", "Go.", "--json", variables=command.environment) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "queued" in process.stdout.readline()
        process.stdout.close()
        server.call(left.set)
        err = process.stderr.read()
        assert process.wait(30) == 1
    told = re.fullmatch(r"the run goes on; watch it with: cloutagent watch (\S+) --from-event \d+\n", err)
    assert told is not None and only_run.status == "running"
    client.executions.cancel(told[1])


def test_ctrl_c_cancels_when_it_was_told_so(command: Commands, only_run: OnlyRun) -> None:
    words = ("run", "hang", "--json", "--on-interrupt", "cancel")
    with without_terminal(*words, variables=command.environment) as process:
        assert process.stdout is not None
        while "token_usage" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert '"kind": "cancelled"' in out.splitlines()[-1]
    assert err == "cancelling …\n"
    assert only_run.status == "cancelled"


def test_what_becomes_of_a_run_that_is_left_is_the_truth(
    command: Commands, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = client.executions.run("Greet Ada.").id
    done = command("watch", ended, "--from-event", "99999")
    assert done.code == 7 and "goes on" not in done.err
    assert done.err.startswith(f"execution {ended} has ended: completed\n")
    running = client.executions.start("hang").id
    done = command("watch", running, "--from-event", "99999")
    told = re.search(r"the run goes on; watch it with: cloutagent watch \S+ --from-event (\d+)\n", done.err)
    assert done.code == 7 and told is not None and int(told[1]) < 99
    client.executions.cancel(running)


GONE = errors.UnavailableError("connection refused", code="UNAVAILABLE")
DENIED = errors.AuthenticationError("the key is not valid", code="UNAUTHENTICATED", reason="API_KEY_INVALID")
UNCERTAIN = "the run may go on, or may be cancelled; watch it with: "


@pytest.mark.parametrize(
    ("cancel", "get", "code", "told"),
    [
        (GONE, None, 6, UNCERTAIN),
        (GONE, GONE, 6, UNCERTAIN),
        (DENIED, None, 3, "the run goes on; watch it with: "),
        (DENIED, DENIED, 3, "the run may go on; watch it with: "),
        (errors.ConfigurationError("a key in plain text"), None, 2, "the run goes on; watch it with: "),
        # Another Ctrl-C before there is an answer.
        (KeyboardInterrupt(), None, 130, UNCERTAIN),
        (KeyboardInterrupt(), GONE, 130, UNCERTAIN),
    ],
)
def test_a_run_is_being_cancelled_only_if_the_server_said_so(
    cancel: BaseException,
    get: BaseException | None,
    code: int,
    told: str,
    command: Commands,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = client.executions.start("hang").id

    def cancelled(*_: object) -> None:
        if get is not None:
            monkeypatch.setattr(Executions, "get", raising(get))
        raise cancel

    monkeypatch.setattr(Following, "next", lambda _: Signal.INTERRUPT)
    with monkeypatch.context() as patch:
        patch.setattr(Executions, "cancel", cancelled)
        done = command("watch", running, "--on-interrupt", "cancel")
    assert done.code == code
    assert done.err.splitlines()[:2] == ["cancelling …", f"{told}cloutagent watch {running} --from-event 1"]
    client.executions.cancel(running)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_cancel_that_was_taken_is_told_as_such(
    reachable: bool, command: Commands, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = client.executions.start("hang").id
    as_it_stands = client.executions.get(running)

    def taken(*_: object) -> Execution:
        if not reachable:
            monkeypatch.setattr(Executions, "get", raising(GONE))
        return as_it_stands

    monkeypatch.setattr(Following, "next", lambda _: Signal.INTERRUPT)
    with monkeypatch.context() as patch:
        patch.setattr(Executions, "cancel", taken)
        done = command("watch", running, "--on-interrupt", "cancel")
    assert done.code == 130 and "the run is being cancelled; watch it with: " in done.err
    client.executions.cancel(running)


@pytest.mark.parametrize("answered", [True, False])
def test_a_run_that_a_cancel_has_ended_is_told_to_have_ended(
    answered: bool, command: Commands, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = client.executions.start("hang").id
    cancel = Executions.cancel

    def cancelled(executions: Executions, execution_id: str) -> Execution:
        ended = cancel(executions, execution_id)
        if not answered:
            raise GONE
        monkeypatch.setattr(Executions, "get", raising(GONE))
        return ended

    monkeypatch.setattr(Following, "next", lambda _: Signal.INTERRUPT)
    monkeypatch.setattr(Executions, "cancel", cancelled)
    done = command("watch", running, "--on-interrupt", "cancel")
    assert done.code == (130 if answered else 6)
    assert done.err.splitlines()[:2] == ["cancelling …", f"execution {running} has ended: cancelled"]


def raising(error: BaseException) -> Callable[..., Any]:
    """A method that fails."""

    def method(*_: object, **__: object) -> Any:
        raise error

    return method


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_terminals_may_want_less(command: Commands, variables: dict[str, str]) -> None:
    with on_terminal("run", "Greet Ada.", variables={**command.environment, **variables}) as terminal:
        terminal.expect("echo: Greet Ada")
        assert terminal.end() == 0
    colours = re.findall(r"\x1b\[[\d;]*m", terminal.shown)
    assert all(re.fullmatch(r"\x1b\[[012]*m", colour) for colour in colours), "no colour, at most bold and dim"
    if variables.get("TERM") == "dumb":
        assert ESCAPE not in terminal.shown


def test_what_is_ignored_stays_ignored() -> None:
    watched = SimpleNamespace(watch=lambda *_, **__: (number for number in list[int]()))
    client: Any = SimpleNamespace(executions=watched)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Following(client, "id", 0).running() as following, held(), interruptible():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            assert following.next() is Signal.END
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
