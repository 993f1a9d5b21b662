"""One server for all commands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from cloutagent import Client
from cloutagent.types import AgentConfig, NewProject
from tests.support.command_line.commands import Commands
from tests.support.command_line.server import ThreadedServer, threaded_server
from tests.support.fake_engine import FakeEngine, default_script

ADMIN_KEY = f"admin-{uuid.uuid4()}"
MODEL = "claude-sonnet-4-5"
VARIABLES = (
    "CLOUTAGENT_ADDRESS",
    "CLOUTAGENT_API_KEY",
    "CLOUTAGENT_PROJECT_ID",
    "CLOUTAGENT_PROFILE",
    "CLOUTAGENT_CA_FILE",
    "FORCE_COLOR",
    "NO_COLOR",
)


@pytest.fixture(autouse=True)
def _own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def _quiet_server() -> Iterator[None]:
    """Lines of the server's log are not taken for what a command writes."""
    before = structlog.get_config()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    """The server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
        with threaded_server(tmp_path_factory.mktemp("projects"), ADMIN_KEY) as running:
            yield running


@pytest.fixture
def engine(server: ThreadedServer) -> Iterator[FakeEngine]:
    """The scripted engine of the server, with its default script unless the test gives it another one."""
    yield server.stage.engine
    server.stage.engine.script = default_script


@pytest.fixture(scope="session")
def admin(server: ThreadedServer) -> Iterator[Client]:
    """A client with the admin's key."""
    with Client(address=server.url, api_key=ADMIN_KEY) as client:
        yield client


@pytest.fixture
def project(admin: Client) -> NewProject:
    """A new project."""
    return admin.projects.create(name="notes", agent=AgentConfig(name="helper", system_prompt="You help.", model=MODEL))


@pytest.fixture
def client(server: ThreadedServer, project: NewProject) -> Iterator[Client]:
    """A client with the project's key."""
    with Client(address=server.url, api_key=project.api_key) as client:
        yield client


@pytest.fixture
def command(server: ThreadedServer, project: NewProject) -> Commands:
    """Runs commands with the project's key."""
    return Commands({"CLOUTAGENT_ADDRESS": server.url, "CLOUTAGENT_API_KEY": project.api_key})


@pytest.fixture
def stranger(server: ThreadedServer) -> Commands:
    """Runs commands without a key."""
    return Commands({"CLOUTAGENT_ADDRESS": server.url})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has commands take their standard input for somebody who answers questions."""

    def set_up() -> None:
        monkeypatch.setattr("cloutagent.cli.output.Output.asks", True)
        monkeypatch.setattr("cloutagent.cli.asking.typed", lambda: True)

    return set_up
