"""`validate-env`: every fault in one pass, those of this machine too, each with what to do, and nothing is written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloutagent_server.cli import cli
from cloutagent_server.preflight import examine
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secret_care import check_key
from cloutagent_server.settings import Settings
from cloutagent_server.storage.filesystem import FileSystemStorage

REPOSITORY = Path(__file__).parents[2]
ENCRYPTION_KEY = "ab" * 32


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment with the one setting that development needs, in a folder of its own."""
    names = {name.upper() for name in Settings.model_fields} | {"NODE_ENV"}
    for name in [name for name in os.environ if name.upper() in names]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-" + "v" * 30)
    return monkeypatch


def names(faults: list[str]) -> list[str]:
    return [fault.partition(":")[0] for fault in faults]


def sealed_folder(root: Path) -> None:
    """A folder of projects whose secrets are sealed with ENCRYPTION_KEY."""

    async def make() -> None:
        storage = FileSystemStorage(root)
        await storage.start()
        await check_key(storage.secrets, Keyring(ENCRYPTION_KEY))
        await storage.stop()

    asyncio.run(make())


def test_without_a_fault_the_settings_are_given_and_nothing_is_made(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings, faults = examine()
    assert faults == []
    assert settings is not None and settings.port == 3001
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_settings_and_of_the_machine_are_told_in_one_pass(
    env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / ".env").write_text("ENCRYPTON_KEY=x\nMY_OWN=1\nMAX_QUEUED_EXECUTION=3\n")
    for name, value in {
        "NODE_ENV": "staging",
        "ANTHROPIC_API_KEY": "wrong",
        "ENCRYPTION_KEY": "abc",
        "MAX_CONCURRENT_EXECUTIONS": "0",
        "AGENT_MEMORY_LIMIT": "plenty",
        "GRPC_PORT": "3001",
        "PROJECT_ROOT": "file/projects",
        "BACKUP_ROOT": "file",
    }.items():
        env.setenv(name, value)
    settings, faults = examine()
    assert settings is None
    assert sorted(names(faults)) == sorted(
        [
            "ENCRYPTON_KEY",
            "MAX_QUEUED_EXECUTION",
            "APP_ENV",
            "ANTHROPIC_API_KEY",
            "ENCRYPTION_KEY",
            "MAX_CONCURRENT_EXECUTIONS",
            "AGENT_MEMORY_LIMIT",
            "GRPC_PORT",
            "PROJECT_ROOT",
            "BACKUP_ROOT",
        ]
    )
    told = "\n".join(faults)
    assert "ENCRYPTON_KEY: is no setting and is ignored; write ENCRYPTION_KEY if that is meant" in told
    assert "AGENT_MEMORY_LIMIT: must be a size such as 512MiB" in told
    assert "MAX_CONCURRENT_EXECUTIONS: must be greater than or equal to 1" in told
    assert "GRPC_PORT: is 3001, as PORT is; choose another port, or 0 for any free one" in told
    assert f"PROJECT_ROOT: {tmp_path / 'file'} is not a folder; name another one" in told
    assert all("\n" not in fault for fault in faults)


def test_the_folder_of_runs_must_be_apart(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("PROJECT_ROOT", "all/projects")
    env.setenv("RUN_ROOT", "all")
    (fault,) = examine()[1]
    assert fault.startswith("RUN_ROOT: ") and fault.endswith("it needs a folder of its own")


def test_a_folder_that_is_not_writable_is_told(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    env.setenv("PROJECT_ROOT", str(folder / "projects"))
    env.setattr(os, "access", lambda path, mode: Path(path) != folder)  # root may write everywhere
    (fault,) = examine()[1]
    assert fault.startswith(f"PROJECT_ROOT: {folder} cannot be written to by this user; ")


def test_backups_that_are_off_need_no_folder(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env.setenv("BACKUP_ROOT", "file")
    assert names(examine()[1]) == ["BACKUP_ROOT"]
    env.setenv("BACKUP_ENABLED", "false")
    assert examine()[1] == []


def test_a_socket_that_cannot_be_made_is_told(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("GRPC_SOCKET", "there/server.sock")
    env.setenv("GRPC_PORT", "3001")
    assert examine()[1] == [f"GRPC_SOCKET: {tmp_path / 'there'} is not there; make it, for this user alone"]
    (tmp_path / "there").touch()
    assert examine()[1] == [f"GRPC_SOCKET: {tmp_path / 'there'} is not a folder; name another one"]
    env.setenv("GRPC_SOCKET", f"/{'a' * 103}.sock")
    (long,) = examine()[1]
    assert long.startswith("GRPC_SOCKET: has more than 107 bytes")
    env.setenv("GRPC_SOCKET", "/tmp/s")
    assert examine()[1] == []


def test_a_key_that_does_not_open_the_stored_secrets_is_told(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sealed_folder(tmp_path / "data" / "projects")
    (missing,) = examine()[1]
    assert missing == "ENCRYPTION_KEY: is required, since PROJECT_ROOT holds secrets that were sealed with one"
    env.setenv("ENCRYPTION_KEY", "cd" * 32)
    (wrong,) = examine()[1]
    assert wrong.startswith("ENCRYPTION_KEY: does not open the stored secrets") and "ENCRYPTION_KEYS_RETIRED" in wrong
    env.setenv("ENCRYPTION_KEYS_RETIRED", ENCRYPTION_KEY)
    assert examine()[1] == []


def test_a_key_of_a_wrong_form_is_one_fault_and_not_two(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sealed_folder(tmp_path / "data" / "projects")
    env.setenv("ENCRYPTION_KEY", "abc")
    assert names(examine()[1]) == ["ENCRYPTION_KEY"]


def test_a_damaged_note_of_the_key_is_told(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = tmp_path / "data" / "projects"
    sealed_folder(root)
    (root / ".key-check.json").write_text("{")
    env.setenv("ENCRYPTION_KEY", ENCRYPTION_KEY)
    (fault,) = examine()[1]
    assert fault.startswith("PROJECT_ROOT: ") and ".key-check.json" in fault


def test_the_command_prints_all_faults_and_exits_with_1_or_the_settings_without_secrets(
    env: pytest.MonkeyPatch,
) -> None:
    env.setenv("APP_ENV", "production")
    refused = CliRunner().invoke(cli, ["validate-env"])
    assert refused.exit_code == 1
    assert names(refused.stderr.splitlines()) == ["ENCRYPTION_KEY", "ADMIN_API_KEY"]
    assert all("required in production" in line for line in refused.stderr.splitlines())
    env.setenv("ENCRYPTION_KEY", ENCRYPTION_KEY)
    env.setenv("ADMIN_API_KEY", "an-admin-key-of-some-length")
    accepted = CliRunner().invoke(cli, ["validate-env"])
    assert accepted.exit_code == 0
    assert "PORT=3001" in accepted.stdout.splitlines()
    assert ENCRYPTION_KEY not in accepted.output and "an-admin-key" not in accepted.output


def test_production_refuses_to_start_without_its_keys_and_writes_none(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env.setenv("APP_ENV", "production")
    for command in ("serve", "up"):
        refused = CliRunner().invoke(cli, [command])
        assert refused.exit_code == 1
        assert names(refused.stderr.splitlines()) == ["ENCRYPTION_KEY", "ADMIN_API_KEY"]
    assert list(tmp_path.iterdir()) == []


def test_the_script_runs_the_command_from_the_repository(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    (copy / "scripts" / "validate-env.sh").write_bytes((REPOSITORY / "scripts" / "validate-env.sh").read_bytes())
    (copy / ".venv" / "bin").mkdir(parents=True)
    command = copy / ".venv" / "bin" / "cloutagent-server"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cloutagent_server "$@"\n')
    command.chmod(0o755)
    (copy / ".env").write_text("LOG_LEVEL=loud\nPORT=x\n")
    done = subprocess.run(
        ["bash", copy / "scripts" / "validate-env.sh", "--local-model"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert names(done.stderr.splitlines()) == ["LOG_LEVEL", "PORT"]


def test_development_writes_a_missing_key_to_the_env_file_and_says_so(env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def started(*_: object) -> None:
        pass

    env.setattr("cloutagent_server.supervisor.serve", started)
    first = CliRunner().invoke(cli, ["serve"])
    assert first.exit_code == 0, first.output
    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    name, _, key = file.read_text().strip().partition("=")
    assert (name, len(bytes.fromhex(key))) == ("ENCRYPTION_KEY", 32)
    assert "a new ENCRYPTION_KEY was written to .env; keep it" in first.stderr
    assert key not in first.output
    again = CliRunner().invoke(cli, ["serve"])
    assert again.exit_code == 0 and "ENCRYPTION_KEY" not in again.output
    assert file.read_text() == f"ENCRYPTION_KEY={key}\n"


def test_hosts_that_nobody_can_listen_on_are_told(env: pytest.MonkeyPatch) -> None:
    # An address for documentation, which no machine has, and a name that leads nowhere by its definition.
    env.setenv("HOST", "192.0.2.7")
    env.setenv("METRICS_HOST", "metrics.invalid")
    env.setenv("GRPC_HOST", "192.0.2.7")
    settings, faults = examine()
    assert settings is None
    assert faults == [
        "HOST: 192.0.2.7 is no address of this machine; choose one of its own",
        "METRICS_HOST: no address of metrics.invalid is known; name another host, or an IP address",
    ]
    env.setenv("METRICS_PORT", "0")
    assert names(examine()[1]) == ["HOST"]
