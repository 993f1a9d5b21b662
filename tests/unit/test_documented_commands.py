"""The commands that the documentation tells: each is one that there is, with the options that it has."""

from __future__ import annotations

import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloutagent_server.cli import cli
from cloutagent_server.settings import Settings
from tests.support import compose
from tests.support.compose import PROFILES, REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# What is no program of ours.
FOREIGN = {
    "cd",
    "chmod",
    "cp",
    "curl",
    "docker",
    "export",
    "git",
    "grep",
    "install",
    "npm",
    "openssl",
    "sha256sum",
    ".venv/bin/buf",
}
_ASSIGNMENT = re.compile(r"[A-Z_]+=")

Command = tuple[str, ...]


def commands(text: str) -> Iterator[Command]:
    """What a shell would run of the text's blocks of shell, without variables that are set for one command."""
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines = ""
        for line in block.splitlines():
            lines += line + "\n"
            try:
                words = shlex.split(lines.replace("\\\n", " "), comments=True)
            except ValueError:
                continue  # In the middle of quotes.
            if line.endswith("\\"):
                continue
            lines = ""
            yield from _simple(words)
        assert not lines, f"quotes that do not end: {lines}"
    for words in re.findall(r"`((?:cloutagent-server|make|docker-compose) [^`]+)`", text):
        yield from _simple(shlex.split(words))


def _simple(words: list[str]) -> Iterator[Command]:
    command: list[str] = []
    for word in [*words, "|"]:
        if word not in ("|", "&&"):
            command += [] if not command and _ASSIGNMENT.match(word) else [word]
        elif command:
            yield tuple(command)
            command = []


def all_commands() -> dict[Command, str]:
    """Every command, with the page that tells it."""
    return {command: page.name for page in PAGES for command in commands(page.read_text())}


def ours(name: str) -> list[Command]:
    """What follows the name of this program where it is run, be it in a container."""
    return sorted({command[command.index(name) + 1 :] for command in all_commands() if name in command})


def help_of_compose(arguments: Command) -> subprocess.CompletedProcess[str]:
    """What docker-compose says to these arguments and a request for help, which is no help with a wrong option."""
    option, profile, command, *rest = arguments
    program = str(Path(sysconfig.get_path("scripts")) / "docker-compose")
    words = [program, option, profile, command, "--help", *rest]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_commands_are_found_in_a_text() -> None:
    text = "Run `make x`.\n```sh\nA=1 one 'two\n three' \\\n  four && five | six  # seven\n```\n```\neight\n```\n"
    assert list(commands(text)) == [("one", "two\n three", "four"), ("five",), ("six",), ("make", "x")]


def test_every_command_is_of_a_known_program() -> None:
    programs = {command[0] for command in all_commands()}
    assert {"cloutagent-server", "docker-compose", "make", "python"} <= programs
    assert programs - FOREIGN <= {"cloutagent-server", "docker-compose", "make", "python", "scripts/validate-env.sh"}


@pytest.mark.parametrize("arguments", ours("cloutagent-server"), ids=" ".join)
def test_the_server_has_the_command_and_its_options(arguments: Command) -> None:
    done = CliRunner().invoke(cli, [*arguments, "--help"])
    assert done.exit_code == 0, done.output
    words = [word for word in arguments if not word.startswith("-")]
    assert " ".join(words[:1]) in done.output.partition("[OPTIONS]")[0]


def test_a_command_that_is_not_there_is_told() -> None:
    for arguments in (["drive"], ["backup", "verifying"], ["restore", "FILE", "--force"]):
        assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 2
    assert "unknown flag" in help_of_compose(("--profile", "prod", "up", "--nothing")).stderr


@pytest.mark.parametrize("arguments", ours("docker-compose"), ids=" ".join)
def test_docker_compose_has_the_command_its_options_and_the_service(arguments: Command, tmp_path: Path) -> None:
    option, profile, command, *rest = arguments
    assert option == "--profile" and profile in PROFILES
    done = help_of_compose(arguments)
    assert done.returncode == 0, done.stderr
    assert f"{command} [" in done.stdout, "else it is the help of docker-compose as a whole"
    if command in ("run", "exec", "logs", "cp"):
        service = next(word for word in rest if not word.startswith("-")).partition(":")[0]
        assert service in compose.read(tmp_path, profile, ENCRYPTION_KEY="ab" * 32)["services"]


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    told = {word for words in ours("make") for word in words if not _ASSIGNMENT.match(word)}
    assert "validate-env" in told
    assert told <= targets


def test_every_module_is_there() -> None:
    modules = {words[1] for words in ours("python") if words[:1] == ("-m",)}
    assert "benchmarks.rest" in modules
    for module in modules:
        assert find_spec(module) is not None, module


def test_the_servers_of_a_rolling_restart_take_ports_of_their_own() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text()
    part = page.split("### Rolling restart", 1)[1].split("\n## ", 1)[0]
    commands = re.findall(r"^((?:\w+=\S+ )*)cloutagent-server serve\b", part, re.MULTILINE)
    assert len(commands) == 2
    ports = []
    for variables in commands:
        given = {name.lower(): value for name, value in re.findall(r"(\w+)=(\S+)", variables)}
        settings = Settings(_env_file=None, anthropic_base_url="http://127.0.0.1:9", **given)
        ports += [settings.grpc_port, settings.metrics_port]
    assert len(set(ports)) == 4
    (upstreams,) = re.findall(r"UPSTREAMS=(\S+)", part)
    assert {f"127.0.0.1:{port}" for port in ports[::2]} == set(upstreams.split(","))
