"""What a new key goes through until it is kept or shown: it is there once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

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
