"""`cloutagent-server rotate-encryption-key` as an operator runs it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders

OLD, NEW = "01" * 32, "02" * 32


async def rotate(folder: Path, root: Path, **settings: str) -> tuple[int, str, str]:
    """Exit code, output and error output of the command, with nothing but these settings."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cloutagent_server", "rotate-encryption-key"),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "METRICS_PORT": "0", "PROJECT_ROOT": str(root), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    for key in (OLD, NEW):
        assert key.encode() not in output + errors
    return process.returncode, output.decode(), errors.decode()


async def test_the_command_rotates_beside_a_server_and_says_how_far_it_is(tmp_path: Path) -> None:
    root = tmp_path / "projects"
    storage = FileSystemStorage(root)
    await storage.start()
    ids = []
    for _ in range(2):
        project = await storage.projects.create(builders.project_draft(), builders.credential())
        await SecretManager(storage.secrets, Keyring(OLD)).set_secret(project.id, "TOKEN", "hunter2")
        ids.append(project.id)
    await SecretManager(storage.secrets, Keyring(OLD)).check_key()

    code, output, errors = await rotate(tmp_path, root, ENCRYPTION_KEY=NEW)
    assert (code, output) == (1, "")
    assert "ENCRYPTION_KEY does not open the stored secrets" in errors and "ENCRYPTION_KEYS_RETIRED" in errors

    code, output, errors = await rotate(tmp_path, root, ENCRYPTION_KEY=NEW, ENCRYPTION_KEYS_RETIRED=OLD)
    assert (code, output.splitlines(), errors) == (
        0,
        [
            "1 of 2 projects: 1 values sealed anew, 0 faults",
            "2 of 2 projects: 2 values sealed anew, 0 faults",
            "2 projects are sealed with ENCRYPTION_KEY; the retired keys are not needed any more",
        ],
        "",
    )
    for project_id in ids:
        assert await SecretManager(storage.secrets, Keyring(NEW)).get_secret(project_id, "TOKEN") == "hunter2"
    await storage.stop()


async def test_the_command_names_what_it_had_to_leave(tmp_path: Path) -> None:
    root = tmp_path / "projects"
    storage = FileSystemStorage(root)
    await storage.start()
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await SecretManager(storage.secrets, Keyring(OLD)).set_secret(project.id, "TOKEN", "hunter2")
    (root / project.id / ".secrets" / "secrets.enc").write_text("{}")
    await storage.stop()
    code, _, errors = await rotate(tmp_path, root, ENCRYPTION_KEY=OLD)
    assert code == 1
    assert f"secret TOKEN of project {project.id}: its value was removed from secrets.enc" in errors
    assert "the retired keys are still needed" in errors


async def test_the_command_needs_a_key(tmp_path: Path) -> None:
    code, _, errors = await rotate(tmp_path, tmp_path / "projects")
    assert code == 1
    assert errors == "ENCRYPTION_KEY: is required here: the key to seal with\n"
