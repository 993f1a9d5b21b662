"""What a new key goes through until it is kept or shown: it is there once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from cloutagent import Client, errors
from cloutagent._sync.keys import Keys
from cloutagent._sync.projects import Projects
from cloutagent.cli.output import Output
from cloutagent.cli.profiles import Profiles
from cloutagent.types import NewProject
from tests.command_line.conftest import ADMIN_KEY, MODEL
from tests.support.command_line.commands import Commands
from tests.support.command_line.server import ThreadedServer

NEW = ("project", "create", "Support", "--system-prompt", "You help.", "--model", MODEL)


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def interrupted(request: pytest.FixtureRequest, project: NewProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Once there is a project, signals arrive when the server has made a key and the client has not yet said so."""

    def then_a_signal(method: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            answer = method(*given, **named)
            signal.raise_signal(request.param)
            return answer

        return call

    for resource, name in ((Keys, "create"), (Keys, "rotate"), (Projects, "create")):
        monkeypatch.setattr(resource, name, then_a_signal(getattr(resource, name)))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("interrupted")
def test_a_signal_waits_until_the_new_key_is_kept_or_shown(
    stranger: Commands, project: NewProject, server: ThreadedServer
) -> None:
    stranger.ok("login", stdin=project.api_key)
    done = stranger("project", "rotate-key", "--grace-period", "0s")
    assert (done.code, done.err.splitlines()[-1]) == (130, "cloutagent: interrupted")
    kept = Profiles().get("default")
    assert kept is not None and kept.api_key != project.api_key
    stranger.ok("project", "show")
    created = stranger("key", "create", "ci", "--json")
    assert created.code == 130 and created.json["apiKey"].startswith("cla_")
    again = stranger("key", "rotate", created.json["key"]["id"])
    assert again.code == 130 and "api key  cla_" in again.out
    new = stranger(*NEW, "--json", CLOUTAGENT_API_KEY=ADMIN_KEY)
    assert new.code == 130 and new.json["apiKey"].startswith("cla_")


def test_what_to_do_about_a_key_that_cannot_be_written_is_told(
    command: Commands, server: ThreadedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(Output, "facts", leave)
    done = command("key", "create", "kk")
    listed = command.ok("key", "list", "--json").json["keys"]
    (lost,) = (key["id"] for key in listed if key["name"] == "kk")
    assert done.code == 1 and f"`cloutagent key revoke {lost}` ends it" in done.err
    done = command(*NEW, CLOUTAGENT_API_KEY=ADMIN_KEY)
    assert done.code == 1 and "`cloutagent project rotate-key --project " in done.err


@pytest.fixture
def full(project: NewProject, client: Client) -> NewProject:
    """A project with as many keys as there may be."""
    for number in range(19):
        client.keys.create(name=f"k{number}")
    return project


def test_the_key_in_use_is_replaced_at_once_where_there_is_no_room_for_both(
    stranger: Commands, full: NewProject
) -> None:
    stranger.ok("login", stdin=full.api_key)
    done = stranger.ok("project", "rotate-key")
    assert "1 minute" not in done.err
    assert "the old key has ended: the project has as many keys as it may have" in done.err
    assert stranger("project", "show", CLOUTAGENT_API_KEY=full.api_key).code == 3
    assert len(stranger.ok("key", "list", "--json").json["keys"]) == 20


def test_a_grace_period_that_there_is_no_room_for_is_refused_with_what_to_do(
    command: Commands, full: NewProject
) -> None:
    listed = command.ok("key", "list", "--json").json
    for words in (["project", "rotate-key"], ["key", "rotate", listed["keys"][5]["id"]]):
        done = command(*words, "--grace-period", "5min")
        assert done.code == 7 and "API_KEY_LIMIT_REACHED" in done.err
        assert "--grace-period 0s" in done.err and "`cloutagent key revoke`" in done.err
    assert [key["id"] for key in command.ok("key", "list", "--json").json["keys"]] == [
        key["id"] for key in listed["keys"]
    ]
    command.ok("key", "rotate", listed["keys"][5]["id"])
    command.ok("project", "rotate-key", "--grace-period", "0s")


@pytest.mark.parametrize(
    "error",
    [
        errors.FailedPreconditionError("API_KEY_LIMIT_REACHED", code="FAILED_PRECONDITION"),
        errors.FailedPreconditionError("no", code="FAILED_PRECONDITION", reason="LAST_API_KEY"),
        errors.DeadlineExceededError("too late", code="DEADLINE_EXCEEDED"),
        errors.UnavailableError("gone", code="UNAVAILABLE"),
        errors.InternalError("a fault", code="INTERNAL", reason="INTERNAL_ERROR"),
    ],
)
def test_a_key_is_replaced_a_second_time_for_no_other_failure(
    error: errors.ApiError, command: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def rotate(_: Keys, **named: Any) -> Any:
        asked.append(named)
        raise error

    monkeypatch.setattr(Keys, "rotate", rotate)
    assert command("project", "rotate-key").code != 0
    assert [named["grace_period"] for named in asked] == [timedelta(minutes=1)]


def test_a_key_that_may_have_ended_without_an_answer_is_told(
    stranger: Commands, full: NewProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger.ok("login", stdin=full.api_key)
    rotate = Keys.rotate

    def lost(keys: Keys, **named: Any) -> Any:
        rotate(keys, **named)
        raise errors.UnavailableError("gone", code="UNAVAILABLE")

    monkeypatch.setattr(Keys, "rotate", lost)
    done = stranger("project", "rotate-key")
    assert done.code == 6 and "the old key may have ended all the same" in done.err
    assert stranger("project", "show").code == 3
