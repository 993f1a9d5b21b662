"""The wheels where nothing else is installed: they are complete, and what the README prints works."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.demo.stack import Stack
from scripts.packaging.build import REPOSITORY
from scripts.packaging.environment import EmptyEnvironment
from scripts.packaging.npm import try_package
from scripts.packaging.smoke import (
    NPM_PACKAGE,
    SmokeFailed,
    built,
    check_imports,
    check_readme,
    health_version,
    try_out,
)

pytestmark = pytest.mark.e2e

VERSION = (REPOSITORY / "VERSION").read_text().strip()


def test_importing_the_client_is_quick_and_brings_nothing_of_the_server(client: EmptyEnvironment) -> None:
    assert "ms" in check_imports(client)


def test_the_client_tells_its_version(client: EmptyEnvironment) -> None:
    assert client.run("import cloutagent; print(cloutagent.__version__)").strip() == VERSION


def test_an_environment_with_the_server_is_no_client_alone(server: EmptyEnvironment) -> None:
    with pytest.raises(SmokeFailed, match="cloutagent-server"):
        check_imports(server)


def test_the_lines_of_the_readme_work_as_printed(client: EmptyEnvironment, stack: Stack) -> None:
    printed = check_readme(client, stack.url).strip()
    answer = printed[: len(printed) // 2]
    assert "Greet Ada." in answer
    assert printed == answer * 2, "once as it came, once as the result"


def test_the_server_runs_from_its_wheel(server: EmptyEnvironment, client: EmptyEnvironment, stack: Stack) -> None:
    where = Path(server.run("import cloutagent_server; print(cloutagent_server.__file__)").strip())
    assert where.is_relative_to(server.scripts.parent)
    assert health_version(client, stack.url) == VERSION


def test_the_npm_package_works_where_nothing_else_is_installed(dist: Path, stack: Stack, tmp_path: Path) -> None:
    seen = try_package(built(dist, NPM_PACKAGE), tmp_path / "npm", stack.url)
    assert (seen["version"], seen["first"], seen["last"]) == (VERSION, "queued", "completed")
    assert "Greet Ada." in seen["result"]


def test_a_folder_without_wheels_is_told(tmp_path: Path) -> None:
    with pytest.raises(SmokeFailed, match="make dist"):
        built(tmp_path, "*.whl")


@pytest.mark.full
def test_server_and_client_install_with_all_that_they_need(
    dist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try_out(dist, tmp_path)
    assert f"server: up, version {VERSION}" in capsys.readouterr().out
