"""The distributions, built once, and the stack as it runs where their wheels are installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from scripts.demo.stack import Stack
from scripts.packaging.build import REPOSITORY, build
from scripts.packaging.environment import EmptyEnvironment
from scripts.packaging.smoke import CLIENT_WHEEL, SERVER_WHEEL, built

EPOCH = 1_750_000_000


def copy_tracked(repository: Path, target: Path) -> None:
    """Copy the files that git tracks as they are now: what is tried is what will be committed."""
    listing = ["git", "-C", str(repository), "ls-files", "-z"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (repository / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, target / name)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree, without what git does not track."""
    folder = tmp_path_factory.mktemp("tree") / "a"
    copy_tracked(REPOSITORY, folder)
    return folder


@pytest.fixture(scope="session")
def dist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build(tree, folder, EPOCH)
    return folder


@pytest.fixture(scope="session")
def client(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    """An environment with the client and what it needs, and nothing else."""
    environment = EmptyEnvironment(tmp_path_factory.mktemp("client") / "venv")
    environment.install(built(dist, CLIENT_WHEEL))
    return environment


@pytest.fixture(scope="session")
def server(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    """An environment with the wheels of server and client. What they need is that of the tests, which saves minutes."""
    environment = EmptyEnvironment(tmp_path_factory.mktemp("server") / "venv")
    environment.install(built(dist, SERVER_WHEEL), built(dist, CLIENT_WHEEL), dependencies=False)
    (own,) = environment.scripts.parent.glob("lib/python*/site-packages")
    # A folder that is named like this is on the path, behind what is installed, but its own such files are not read:
    # the packages that are editable there are not to be had.
    (own / "dependencies.pth").write_text(f"{distribution('grpcio').locate_file('')}\n", encoding="utf-8")
    return environment


@pytest.fixture(scope="session")
def stack(server: EmptyEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, started from the wheels."""
    with Stack(tmp_path_factory.mktemp("stack"), live=False, scripts=server.scripts) as running:
        yield running
