"""One running stack for all pages and examples, as `make run` starts it."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloutagent import Client
from cloutagent.types import AgentConfig
from scripts.demo.stack import Stack
from tests.documentation.reader import Reader, programs
from tests.documentation.snippets import REPOSITORY

ENCRYPTION_KEY = "5e" * 32


class DocumentedStack(Stack):
    """The stack with the examples' scripts, a port for metrics, and no process that nobody uses in the end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, live=False)
        self.folder = folder
        self.metrics_port = port_of_nobody()
        shutil.copytree(
            REPOSITORY / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", ".keys")
        )

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "cloutagent_server", "up", "--local-model", "--scripts", "examples"]

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {
            "METRICS_PORT": str(self.metrics_port),
            "ENCRYPTION_KEY": ENCRYPTION_KEY,
            "BACKUP_ENABLED": "false",
            "WARM_AGENTS": "0",
        }


def port_of_nobody() -> int:
    """A free port that nobody is given who asks for any, for those come from above it."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentedStack]:
    """The stack."""
    folder = tmp_path_factory.mktemp("read")
    programs(folder / "bin")
    running = DocumentedStack(folder)
    with running:
        yield running


@pytest.fixture(scope="session")
def project(stack: DocumentedStack) -> dict[str, str]:
    """The variables that pages of reference take for granted: those that docs/quickstart.md sets."""
    agent = AgentConfig(name="assistant", system_prompt="You answer.", model="claude-sonnet-4-5")
    with Client(address=stack.url) as client:
        created = client.projects.create(name="documented", agent=agent)
    with Client(address=stack.url, api_key=created.api_key) as client:
        client.secrets.set("CRM_TOKEN", "s3cret")
        execution = client.executions.run("Greet Ada.")
    return {"KEY": created.api_key, "PROJECT": created.project.id, "EXECUTION": execution.id}


@pytest.fixture
def reader(stack: DocumentedStack, request: pytest.FixtureRequest) -> Callable[[bool], Reader]:
    """A reader, who has a project, a secret and a run that has ended if the argument says so."""

    def new(has_project: bool) -> Reader:
        environment = stack.environment | {
            "PATH": f"{stack.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "CLOUTAGENT_ADDRESS": stack.url,
            # Where the model is told to be, so that no key of a vendor is needed.
            "ANTHROPIC_BASE_URL": stack.model_url,
        }
        if has_project:
            environment |= request.getfixturevalue("project")
        changes = {
            "127.0.0.1:3001": f"127.0.0.1:{stack.port}",
            "127.0.0.1:9464": f"127.0.0.1:{stack.metrics_port}",
            ".venv/bin/": "",
        }
        return Reader(stack.folder, environment, changes)

    return new
