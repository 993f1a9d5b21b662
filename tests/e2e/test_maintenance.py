"""doctor, backup and restore as an operator runs them, beside a process that writes all the time."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

KEY = "ab" * 32


class Operator:
    """Runs the command on one data folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._env = {
            "PATH": os.environ["PATH"],
            "METRICS_PORT": "0",
            "PROJECT_ROOT": str(root),
            "BACKUP_ROOT": str(folder / "backups"),
            "BACKUP_KEEP": "1",
            "ENCRYPTION_KEY": KEY,
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        """The output of `cloutagent-server` with these arguments, which ends with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "cloutagent_server", *arguments],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def finds_nothing(self) -> None:
        """The doctor tells nothing but the last record of the audit log."""
        [line] = self.run("doctor").splitlines()
        assert line.startswith("audit log: record ")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "projects"


@pytest.fixture
def operator(tmp_path: Path, root: Path) -> Operator:
    return Operator(tmp_path, root)


@pytest.fixture
def writer(root: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.writing_process", str(root), KEY],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        if process.poll() is None:
            process.communicate(timeout=60)
    assert process.returncode == 0


def acknowledged(writer: subprocess.Popen[str], count: int) -> dict[str, str]:
    """The next projects that were acknowledged, and their API keys."""
    assert writer.stdout is not None
    lines = [json.loads(writer.stdout.readline()) for _ in range(count)]
    return {line["id"]: line["apiKey"] for line in lines}


def test_a_backup_beside_a_writer_holds_all_that_was_acknowledged(
    operator: Operator, writer: subprocess.Popen[str], root: Path, tmp_path: Path
) -> None:
    keys = acknowledged(writer, 12)
    operator.finds_nothing()
    operator.run("backup", "--executions", "--output", "all.tar.gz")
    backup = tmp_path / "all.tar.gz"
    assert "with executions" in operator.run("backup", "verify", str(backup))

    copy = Operator(tmp_path, tmp_path / "copy")
    would = copy.run("restore", str(backup), "--dry-run").splitlines()
    assert not (tmp_path / "copy").exists()
    did = copy.run("restore", str(backup)).splitlines()
    assert did[:-1] == would[:-1]
    assert {f"create {project_id}" for project_id in keys} <= set(did)
    copy.finds_nothing()
    for project_id in keys:
        original, restored = (each / project_id for each in (root, tmp_path / "copy"))
        for name in ("metadata.json", ".secrets/secrets.enc"):
            assert (restored / name).read_bytes() == (original / name).read_bytes()

    content = gzip.decompress(backup.read_bytes())
    assert b"plain value" not in content
    assert not any(key.encode() in content for key in keys.values())


def test_backups_are_kept_and_brought_back(
    operator: Operator, root: Path, tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    [project_id] = acknowledged(writer, 1)
    writer.communicate(timeout=60)
    for _ in range(2):
        operator.run("backup")
    [backup] = (tmp_path / "backups").iterdir()
    metadata = root / project_id / "metadata.json"
    before = metadata.read_bytes()
    metadata.write_bytes(before[:100])
    assert f"error: {project_id}/metadata.json: " in operator.run("doctor", code=1)
    assert f"left out: {metadata}: " in operator.run("backup", code=1)
    assert backup.exists()
    assert f"replace {project_id}" in operator.run("restore", str(backup), "--replace")
    assert metadata.read_bytes() == before
    operator.finds_nothing()


def test_the_doctor_tells_by_its_exit_code(operator: Operator, root: Path) -> None:
    assert "No such file" in operator.run("doctor", code=2)
    root.mkdir(0o700)
    operator.finds_nothing()
    (root / ".tmp-left").touch(0o600)
    assert operator.run("doctor", code=1).startswith("warning: .tmp-left: ")
    [finding] = json.loads(operator.run("doctor", "--json", code=1))["findings"]
    assert set(finding) == {"severity", "path", "fault", "remedy"}
    assert json.loads(operator.run("doctor", "--repair", "--json"))["findings"] == []
    assert not (root / ".tmp-left").exists()


def test_a_file_that_is_no_backup(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    assert "altered" in operator.run("restore", "text", code=1)
    assert "No such file" in operator.run("backup", "verify", "nowhere", code=1)
    assert "No such file" in operator.run("backup", code=1)
    assert not (tmp_path / "projects").exists()
