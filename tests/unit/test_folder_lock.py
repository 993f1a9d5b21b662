"""A directory of runs for each server, and runs apart from projects."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloutagent_server.folder_lock import FolderInUse, check_apart, run_directory


def test_each_server_has_a_directory_of_its_own_and_clears_away_those_of_dead_ones(tmp_path: Path) -> None:
    reaped: list[Path] = []

    def reap(path: Path) -> None:
        reaped.append(path)
        shutil.rmtree(path)

    dead, earlier = tmp_path / "server-0badc0de", tmp_path / "0a000000-0000-4000-8000-0000000000e1"
    for directory in (dead, earlier, tmp_path / "envoy"):
        directory.mkdir()
    (dead / ".server.lock").touch()
    with run_directory(tmp_path, reap) as first:
        assert set(reaped) == {dead, earlier}
        with run_directory(tmp_path, reap) as second:
            assert first != second
            assert first.is_dir() and second.is_dir()
        assert reaped[2:] == [second]
    assert {path.name for path in tmp_path.iterdir()} == {".server.lock", "envoy"}


def test_runs_and_projects_apart_are_fine(tmp_path: Path) -> None:
    check_apart(tmp_path / "projects", tmp_path / "runs")


@pytest.mark.parametrize("runs", ["projects", ".", "projects/runs", "others"])
def test_a_folder_of_projects_is_no_folder_of_runs(tmp_path: Path, runs: str) -> None:
    for name in ("projects", "others"):
        (tmp_path / name / ".index").mkdir(parents=True)
    with pytest.raises(FolderInUse, match="RUN_ROOT"):
        check_apart(tmp_path / "projects", tmp_path / runs)


def test_what_cannot_be_removed_of_a_dead_server_keeps_no_other_from_starting(tmp_path: Path) -> None:
    (tmp_path / "server-dead0000").mkdir()

    def refused(path: Path) -> None:
        if path.name == "server-dead0000":
            raise OSError("directory not empty")
        shutil.rmtree(path)

    with run_directory(tmp_path, refused) as directory:
        assert directory.is_dir()
