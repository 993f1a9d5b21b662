"""Profiles: how keys are kept, and which address and key a command takes."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloutagent import Client
from cloutagent.cli.app import cli
from cloutagent.cli.connection import Options, connect
from cloutagent.cli.endings import CommandError
from cloutagent.cli.own_files import must_be_own
from cloutagent.cli.profiles import Profile, Profiles, folder
from cloutagent.types import AgentConfig, NewProject
from tests.command_line.conftest import ADMIN_KEY, MODEL
from tests.support.command_line.commands import Commands
from tests.support.command_line.server import ThreadedServer

HERE = "http://127.0.0.1:3001"
THERE = "https://agents.example"


def test_a_login_is_kept_for_its_owner_alone(stranger: Commands, project: NewProject, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        done = stranger.ok("login", stdin=f"{project.api_key}\n")
    finally:
        os.umask(before)
    assert f"key of project notes ({project.project.id})" in done.out
    stored = tmp_path / "config/cloutagent/profiles/default.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    for folder_of_profiles in (stored.parent, stored.parents[1]):
        assert stat.S_IMODE(folder_of_profiles.stat().st_mode) == 0o700
    assert json.loads(stored.read_text())["api_key"] == project.api_key
    assert [path.name for path in stored.parent.iterdir()] == ["default.json"]
    assert project.api_key not in done.out + done.err
    assert stranger.ok("project", "show", CLOUTAGENT_ADDRESS=None, stdin="").out.startswith("project ")


def test_a_key_that_is_not_valid_is_not_kept(stranger: Commands) -> None:
    done = stranger("login", stdin="cla_wrong")
    assert (done.code, Profiles().names()) == (3, [])
    assert "cla_wrong" not in done.out + done.err
    assert stranger("login", stdin=" \n").code == 2
    assert stranger("login", stdin="cla_\x00").code == 2
    stranger.ok("login", "--no-check", stdin="cla_wrong")
    assert Profiles().names() == ["default"]


def test_a_login_tells_what_comes_before_it(command: Commands) -> None:
    done = command.ok("login", "--no-check", "--json", stdin="cla_x")
    assert done.json["profile"] == "default"
    assert done.err == "CLOUTAGENT_API_KEY is set, which comes before what is kept\n"


def test_a_login_at_a_terminal_asks(stranger: Commands, asked: Callable[[], None]) -> None:
    asked()
    stranger.environment["CLOUTAGENT_ADDRESS"] = None
    done = stranger.ok("login", "--no-check", "--profile", "work", stdin=f"{THERE}\ncla_x\n")
    assert f"profile work: {THERE}, not checked" in done.out
    kept = Profiles().get("work")
    assert kept is not None and (kept.address, kept.api_key) == (THERE, "cla_x")


def test_another_key_or_address_is_replaced_only_by_force(
    stranger: Commands, asked: Callable[[], None], project: NewProject
) -> None:
    def login(*words: str, key: str = "cla_x") -> int:
        return stranger("login", "--no-check", "--profile", "r", *words, stdin=key).code

    assert login("--address", THERE, "--project", "p", "--ca-file", "/ca.pem", "--allow-plaintext-key") == 0
    first = Profiles().get("r")
    assert login("--address", THERE) == 0
    assert Profiles().get("r") == first
    assert login("--address", THERE, key="cla_y") == login("--address", HERE) == 2
    operator = Commands({**stranger.environment, "CLOUTAGENT_API_KEY": project.api_key})
    done = operator("key", "create", "ci", "--save-as", "r")
    assert done.code == 2 and "--force" in done.err and THERE in done.err
    assert Profiles().get("r") == first
    assert len(operator.ok("key", "list", "--json").json["keys"]) == 1, "no key is made then"
    assert login("--address", THERE, "--force", "--no-allow-plaintext-key", key="cla_y") == 0
    assert Profiles().get("r") == Profile(THERE, "cla_y", "p", "/ca.pem")
    assert login("--address", HERE, "--force") == 0
    assert Profiles().get("r") == Profile(HERE, "cla_x")
    operator.ok("key", "create", "ci", "--save-as", "r", "--force")
    asked()
    assert operator("key", "create", "ci2", "--save-as", "r", stdin="n\n").code == 1
    operator.ok("key", "create", "ci2", "--save-as", "r", stdin="y\n")


def test_profiles_are_listed_used_and_removed(stranger: Commands, server: ThreadedServer) -> None:
    for name in ("one", "two"):
        stranger.ok("login", "--profile", name, "--address", server.url, stdin=ADMIN_KEY)
    assert stranger.ok("profile", "list").out.splitlines()[2].split()[:2] == ["*", "two"]
    stranger.ok("profile", "use", "one")
    listed = stranger.ok("profile", "list", "--json").json["profiles"]
    assert [(each["name"], each["used"], each["hasKey"]) for each in listed] == [
        ("one", True, True),
        ("two", False, True),
    ]
    assert ADMIN_KEY not in stranger.ok("profile", "list", "--json").out
    stranger.ok("logout", "--profile", "two")
    assert stranger.ok("profile", "list", "--json").json["profiles"][1]["hasKey"] is False
    assert stranger("models", "--profile", "two").code == 3
    assert stranger("profile", "remove", "two").code == 2
    stranger.ok("profile", "remove", "two", "--yes")
    for words in (["profile", "use", "two"], ["models", "--profile", "two"], ["profile", "remove", "../one", "--yes"]):
        assert stranger(*words).code == 2
    assert stranger("logout", "--profile", "two").code == 2


def test_removing_is_asked_for(stranger: Commands, asked: Callable[[], None]) -> None:
    stranger.ok("login", "--no-check", stdin="cla_x")
    asked()
    assert stranger("profile", "remove", "default", stdin="n\n").code == 1
    assert stranger("profile", "remove", "default").code == 130
    assert stranger("profile", "remove", "default", stdin="y\n").code == 0


def test_a_file_that_others_can_read_is_refused(stranger: Commands) -> None:
    stranger.ok("login", "--no-check", stdin="cla_x")
    path = folder() / "profiles/default.json"
    path.chmod(0o640)
    done = stranger("models")
    assert done.code == 2 and "chmod 600" in done.err
    path.chmod(0o600)
    path.write_text("{")
    assert "is damaged" in stranger("models").err
    path.write_text('{"address": 1, "no": 2}')
    assert stranger("profile", "remove", "default", "--yes").code == 0


def test_a_bad_profile_is_listed_as_such(stranger: Commands) -> None:
    for name in ("good", "types", "pipe", "folder"):
        stranger.ok("login", "--no-check", "--profile", name, stdin="cla_x")
    kept = folder() / "profiles"
    (kept / "types.json").write_text('{"address": 1}')
    for name in ("pipe", "folder"):
        (kept / f"{name}.json").unlink()
    os.mkfifo(kept / "pipe.json", 0o600)
    (kept / "folder.json").mkdir(0o700)
    done = stranger.ok("profile", "list")
    assert "good" in done.out
    assert [line.split(":")[0] for line in done.err.splitlines()] == [
        f"profile {name} cannot be used" for name in ("folder", "pipe", "types")
    ]
    listed = stranger.ok("profile", "list", "--json").json["profiles"]
    assert [each["name"] for each in listed if "error" in each] == ["folder", "pipe", "types"]
    assert "is damaged" in stranger("models", "--profile", "types").err


@pytest.mark.parametrize("field", ["api_key", "project_id", "ca_file", "allow_plaintext_key"])
def test_a_field_of_a_wrong_type_is_damage(field: str, stranger: Commands) -> None:
    stranger.ok("login", "--no-check", stdin="cla_x")
    (folder() / "profiles/default.json").write_text(json.dumps({"address": HERE, field: 1}))
    done = stranger("models")
    assert done.code == 2 and "is damaged" in done.err


def test_a_folder_that_others_may_write_is_refused(stranger: Commands) -> None:
    stranger.ok("login", "--no-check", stdin="cla_x")
    for place in (folder(), folder() / "profiles"):
        place.chmod(0o770)
        done = stranger("models")
        assert done.code == 2 and "chmod 700" in done.err
        place.chmod(0o700)
    elsewhere = os.stat_result((0o100600, 0, 0, 1, os.geteuid() + 1, 0, 0, 0, 0, 0))
    with pytest.raises(CommandError, match="belongs to another user"):
        must_be_own(folder(), elsewhere, others=0)


def test_there_is_always_a_profile_in_use(command: Commands) -> None:
    done = command.ok("key", "create", "ci", "--save-as", "one")
    assert "which is in use now" in done.err and Profiles().current() == "one"
    done = command.ok("key", "create", "ci2", "--save-as", "two")
    assert "`cloutagent profile use two` uses it" in done.err and Profiles().current() == "one"
    done = command.ok("profile", "remove", "one", "--yes")
    assert "profile two is in use now; `cloutagent profile use`" in done.err and Profiles().current() == "two"
    assert "in use" not in command.ok("profile", "remove", "two", "--yes").err


def test_what_cannot_be_read_or_written_is_told(stranger: Commands, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("")
    done = stranger("login", "--no-check", stdin="cla_x")
    assert done.code == 2 and done.err.startswith("cloutagent: cannot read ")
    (tmp_path / "current").mkdir()
    with pytest.raises(CommandError, match=r"cannot write .*/current: "):
        Profiles(tmp_path).use("x")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "environment", "address", "key"),
    [
        (Options(), {}, HERE, "key-here"),
        (Options(profile="there"), {}, THERE, "key-there"),
        (Options(), {"CLOUTAGENT_PROFILE": "there"}, THERE, "key-there"),
        (Options(profile="here"), {"CLOUTAGENT_PROFILE": "there"}, HERE, "key-here"),
        (Options(), {"CLOUTAGENT_API_KEY": "key-given"}, HERE, "key-given"),
        (Options(address="127.0.0.1"), {}, "127.0.0.1", "key-here"),
        # A profile that is named decides.
        (Options(profile="there"), {"CLOUTAGENT_API_KEY": "key-given"}, THERE, "key-there"),
        (Options(profile="there"), {"CLOUTAGENT_ADDRESS": HERE, "CLOUTAGENT_API_KEY": "key-given"}, THERE, "key-there"),
        (Options(profile="there", address=HERE), {"CLOUTAGENT_API_KEY": "key-given"}, HERE, None),
        # The environment's key goes to no profile's address.
        (Options(), {"CLOUTAGENT_PROFILE": "there", "CLOUTAGENT_API_KEY": "key-given"}, HERE, "key-given"),
        # A profile's key goes nowhere else.
        (Options(address=THERE), {}, THERE, None),
        (Options(), {"CLOUTAGENT_ADDRESS": THERE}, THERE, None),
        (Options(address=HERE), {"CLOUTAGENT_ADDRESS": THERE}, HERE, "key-here"),
        (Options(), {"CLOUTAGENT_ADDRESS": THERE, "CLOUTAGENT_API_KEY": "key-given"}, THERE, "key-given"),
    ],
)
def test_options_come_before_the_environment_and_that_before_the_profile(
    options: Options, environment: dict[str, str], address: str, key: str | None, tmp_path: Path
) -> None:
    profiles = Profiles(tmp_path)
    profiles.put("here", Profile(HERE, "key-here", project_id="of-here"))
    profiles.put("there", Profile(THERE, "key-there", ca_file="/ca.pem", allow_plaintext_key=True))
    profiles.use("here")
    connection = connect(options, profiles, environment)
    assert (connection.address, connection.api_key) == (address, key)
    assert connection.project_id == ("of-here" if key == "key-here" else None)
    assert connection.ca_file == ("/ca.pem" if address == THERE and key == "key-there" else None)
    assert connection.allow_plaintext_key is (key == "key-there")
    assert key is None or key not in repr(connection)


def test_what_was_withheld_is_told(stranger: Commands, server: ThreadedServer) -> None:
    stranger.ok("login", "--no-check", "--profile", "p", "--address", server.url, stdin="cla_x")
    done = stranger("project", "show", "--profile", "p", CLOUTAGENT_API_KEY=ADMIN_KEY)
    assert done.code == 3 and "CLOUTAGENT_API_KEY is not used, since --profile decides" in done.err
    stranger.ok("login", "--no-check", "--profile", "q", "--address", THERE, stdin="cla_x")
    done = stranger("project", "list")
    assert done.code == 3 and f"the key of profile q is not used: it is for {THERE}" in done.err
    assert stranger("doctor").out.count(f"the key of profile q is not used: it is for {THERE}") == 2
    profiles = Profiles()
    given = connect(Options(), profiles, {"CLOUTAGENT_API_KEY": "key-given"})
    assert (given.address, given.withheld) == (
        HERE,
        "the address of profile q is not used, since the key comes from CLOUTAGENT_API_KEY",
    )


def test_the_project_comes_from_the_option_first(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    profiles.put("default", Profile(HERE, "key", project_id="c"))
    environment = {"CLOUTAGENT_PROJECT_ID": "b"}
    assert connect(Options(project="a"), profiles, environment).project_id == "a"
    assert connect(Options(), profiles, environment).project_id == "b"
    assert connect(Options(), profiles, {}).project_id == "c"
    # A profile that is named decides, also that it is the key's.
    assert connect(Options(profile="default"), profiles, environment).project_id == "c"
    assert connect(Options(profile="default", project="a"), profiles, environment).project_id == "a"
    profiles.put("none", Profile(HERE, "key"))
    assert connect(Options(profile="none"), profiles, environment).project_id is None
    with pytest.raises(CommandError, match="there is no profile x"):
        connect(Options(profile="x"), profiles, {})


def test_a_profile_that_is_named_is_complete_by_itself(
    stranger: Commands, project: NewProject, admin: Client, server: ThreadedServer
) -> None:
    other = admin.projects.create(
        name="other", agent=AgentConfig(name="helper", system_prompt="You help.", model=MODEL)
    ).project.id
    profiles = Profiles()
    profiles.put("of-key", Profile(server.url, project.api_key))
    profiles.put("of-admin", Profile(server.url, ADMIN_KEY, project_id=project.project.id))
    profiles.put("no-project", Profile(server.url, ADMIN_KEY))
    named = ["project", "show", "--json", "--profile"]
    for name in ("of-key", "of-admin"):
        assert stranger.ok(*named, name, CLOUTAGENT_PROJECT_ID=other).json["id"] == project.project.id
    assert stranger.ok(*named, "of-admin", "--project", other).json["id"] == other
    done = stranger(*named, "no-project", CLOUTAGENT_PROJECT_ID=other)
    assert done.code == 2 and "CLOUTAGENT_PROJECT_ID is not used, since --profile decides" in done.err
    assert stranger.ok(*named[:-1], CLOUTAGENT_API_KEY=ADMIN_KEY, CLOUTAGENT_PROJECT_ID=other).json["id"] == other


def test_whom_a_profile_believes_is_its_own_when_it_is_named(tmp_path: Path) -> None:
    profiles = Profiles(tmp_path)
    profiles.put("own", Profile(THERE, "key", ca_file="/own.pem"))
    profiles.put("none", Profile(THERE, "key"))
    environment = {"CLOUTAGENT_CA_FILE": "/env.pem"}
    for name, own in (("own", "/own.pem"), ("none", None)):
        named = connect(Options(profile=name), profiles, environment)
        assert named.ca_file == own
        assert named.withheld == "CLOUTAGENT_CA_FILE is not used, since --profile decides"
        chosen = connect(Options(), profiles, {**environment, "CLOUTAGENT_PROFILE": name})
        assert (chosen.ca_file, chosen.withheld) == ("/env.pem", "")
    both = connect(Options(profile="own"), profiles, {**environment, "CLOUTAGENT_API_KEY": "key-given"})
    assert both.withheld == "CLOUTAGENT_API_KEY and CLOUTAGENT_CA_FILE are not used, since --profile decides"
    elsewhere = connect(Options(profile="own", address=HERE), profiles, environment)
    assert (elsewhere.ca_file, elsewhere.withheld) == (None, f"the key of profile own is not used: it is for {THERE}")


def test_a_login_keeps_whom_the_environment_believes(stranger: Commands) -> None:
    def login(*words: str) -> str | None:
        stranger.ok("login", "--no-check", *words, stdin="cla_x", CLOUTAGENT_CA_FILE="/env.pem")
        kept = Profiles().get("default")
        assert kept is not None
        return kept.ca_file

    assert login() is None, "nobody is to be believed without TLS"
    assert login("--address", THERE, "--force") == "/env.pem"
    assert login("--address", THERE, "--ca-file", "/own.pem") == "/own.pem"
    assert login("--address", THERE) == "/own.pem"
    Profiles().put("default", Profile(THERE, "cla_x"))
    assert login("--profile", "default") is None, "a profile that is named decides"


def test_without_anything_it_is_this_machine(tmp_path: Path) -> None:
    connection = connect(Options(), Profiles(tmp_path), {})
    assert (connection.address, connection.address_source, connection.api_key) == (HERE, "default", None)


def test_the_shell_completes_the_names_of_profiles(stranger: Commands) -> None:
    for name in ("work", "worse", "home"):
        stranger.ok("login", "--no-check", "--profile", name, stdin="cla_x")
    asked = {"_CLOUTAGENT_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    for words in ("cloutagent profile use wo", "cloutagent models --profile wo"):
        done = CliRunner().invoke(cli, [], env={**asked, "COMP_WORDS": words}, prog_name="cloutagent")
        assert done.output.split() == ["work", "worse"]
