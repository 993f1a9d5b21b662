"""The directory and the environment of a run."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.engine.launch import KEEP, PARENT
from cloutagent_server.engine.limits import AgentLimits, LimitWatch
from cloutagent_server.engine.process import RUN_MARKER
from cloutagent_server.engine.workspace import Workspace, sweep


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "data" / "runs", new_id())


def test_only_this_user_may_enter(workspace: Workspace) -> None:
    entries = [workspace.path.parent, workspace.path, *workspace.path.iterdir()]

    assert len(entries) > 4
    assert {mode(entry) for entry in entries} == {0o700}
    assert list(workspace.work.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "a/b", "", "run", "0A" * 16])
def test_only_an_identifier_names_a_workspace(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="identifier"):
        Workspace.create(tmp_path, name)

    assert list(tmp_path.iterdir()) == []


def test_a_workspace_is_used_once(workspace: Workspace) -> None:
    with pytest.raises(FileExistsError):
        Workspace.create(workspace.path.parent, workspace.path.name)


def test_the_system_prompt_is_kept_exactly_and_private(workspace: Workspace) -> None:
    text = "Be brief.\r\nGrüße 🙂\n" * 10_000
    path = workspace.write_system_prompt(text)

    assert path.read_bytes().decode() == text
    assert mode(path) == 0o600
    assert path.parent == workspace.path


def test_the_environment_holds_no_more_than_is_listed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-real-key")
    monkeypatch.setenv("ENCRYPTION_KEY", "another")
    monkeypatch.setenv("PATH", "/somewhere/bin")

    environment = workspace.environment("http://127.0.0.1:1", "one-time", {"CLAUDE_CODE_MAX_RETRIES": "5", "X": "y"})

    kept = environment.pop(KEEP).split(",")
    assert environment.pop(PARENT) == str(os.getpid())
    assert set(kept) == {*environment, "CLAUDE_AGENT_SDK_VERSION", "PWD"}
    assert environment["ANTHROPIC_API_KEY"] == "one-time"
    assert environment["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1"
    assert environment["PATH"] == "/somewhere/bin"
    assert environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert environment["CLAUDE_CODE_NO_MODEL_FALLBACK"] == "1"
    assert environment["CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK"] == "1"
    assert environment["CLAUDE_CODE_MAX_RETRIES"] == "5"
    assert environment["X"] == "y"
    assert environment[RUN_MARKER] == str(workspace.path)
    for name in ("HOME", "TMPDIR", "CLAUDE_CONFIG_DIR"):
        assert Path(environment[name]).parent == workspace.path
        assert Path(environment[name]).is_dir()
    assert not {"the-real-key", "another"} & set(environment.values())


def test_a_root_behind_a_link_gives_the_marker_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    workspace = Workspace.create(tmp_path / "link", new_id())

    assert workspace.environment("", "")[RUN_MARKER] == str(tmp_path.resolve() / "real" / workspace.path.name)


def test_remove_takes_everything_and_follows_no_link(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "file").touch()
    (workspace.work / "link").symlink_to(outside)
    locked = workspace.work / "locked"
    (locked / "deep").mkdir(parents=True)
    (locked / "deep" / "file").touch()
    (locked / "deep").chmod(0)
    locked.chmod(0)

    workspace.remove()
    workspace.remove()

    assert not workspace.path.exists()
    assert (outside / "file").exists()
    assert mode(outside) == 0o755


def test_remove_opens_directories_that_the_agent_closed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = workspace.work / "closed"
    closed.mkdir(mode=0)
    really_run = subprocess.run

    def run_as_an_ordinary_user(command: list[str], **options: Any) -> Any:
        if command[0] == "rm" and mode(closed) == 0:
            return None
        return really_run(command, **options)

    monkeypatch.setattr(subprocess, "run", run_as_an_ordinary_user)
    workspace.remove()

    assert not workspace.path.exists()


def test_what_cannot_be_removed_is_reported(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
    with pytest.raises(OSError, match="cannot be removed"):
        workspace.remove()


def test_a_tree_of_any_depth_is_removed_and_too_deep_a_one_is_too_large(workspace: Workspace) -> None:
    descriptor = os.open(workspace.work, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    watch = LimitWatch(workspace.path, AgentLimits())
    assert watch.look() == "the agent wrote more than AGENT_DISK_LIMIT (1024 MiB)"

    workspace.remove()
    assert not workspace.path.exists()


def test_many_empty_files_are_not_for_free(workspace: Workspace) -> None:
    for number in range(3000):
        (workspace.work / str(number)).touch()
    assert LimitWatch(workspace.path, AgentLimits(disk_bytes=1024**2)).look() is not None
    assert LimitWatch(workspace.path, AgentLimits(disk_bytes=4 * 1024**2)).look() is None


def test_sweep_removes_left_workspaces_only(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert sweep(root) == 0
    for _ in range(2):
        Workspace.create(root, new_id()).write_system_prompt("x")
    (root / "agent").touch()
    (root / "notes").mkdir()

    assert sweep(root) == 2
    assert sorted(entry.name for entry in root.iterdir()) == ["agent", "notes"]
