"""One server for one folder, and runs apart from projects."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloutagent_server.folder_lock import FolderInUse, check_apart, held


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with (
        held(tmp_path, "PROJECT_ROOT"),
        pytest.raises(FolderInUse, match="PROJECT_ROOT: another server"),
        held(tmp_path, "PROJECT_ROOT"),
    ):
        raise AssertionError("the folder was held twice")
    with held(tmp_path, "PROJECT_ROOT"):
        pass


def test_runs_and_projects_apart_are_fine(tmp_path: Path) -> None:
    check_apart(tmp_path / "projects", tmp_path / "runs")


@pytest.mark.parametrize("runs", ["projects", ".", "projects/runs", "others"])
def test_a_folder_of_projects_is_no_folder_of_runs(tmp_path: Path, runs: str) -> None:
    for name in ("projects", "others"):
        (tmp_path / name / ".index").mkdir(parents=True)
    with pytest.raises(FolderInUse, match="RUN_ROOT"):
        check_apart(tmp_path / "projects", tmp_path / runs)
