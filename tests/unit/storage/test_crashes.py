"""A server that dies in the middle of an operation, at any of its steps, leaves it done or not done, and no trace."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.project import KeyCredential, Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.crash_points import NEW_CREDENTIAL, OPERATIONS
from tests.support.folders import leftovers, tree
from tests.support.key_owner import owner_of
from tests.support.secret_changes import put_secret, secrets_of

REPOSITORY = Path(__file__).parents[3]

# How many steps an operation has at least: so many places to die were tried.
STEPS = {"append": 1, "put secret": 4, "update project": 4, "note key uses": 4, "finish": 6}


async def run_crashes(base: Path, work: Path, name: str, project_id: str, execution_id: str) -> int:
    work.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.crash_points", str(base), str(work), name, project_id, execution_id),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return int(output)


async def seen(
    storage: FileSystemStorage, project: Project, key: KeyCredential, execution_id: str
) -> Mapping[str, Any]:
    """What the storage shows of the records that the operations change, apart from what differs with every run."""
    updated = await storage.projects.read(project.id)
    execution = await storage.executions.read(execution_id)
    events = () if execution is None else await storage.executions.read_events(execution_id, 0, 100)
    return {
        "projects": len((await storage.projects.list(10)).items),
        "name": updated and updated.name,
        "key": await owner_of(storage, key),
        "new key": await owner_of(storage, NEW_CREDENTIAL),
        "keys": () if updated is None else await storage.projects.read_keys(project.id),
        "key uses": await storage.projects.read_key_uses(project.id),
        "secrets": sorted(await secrets_of(storage, project.id)),
        "executions": len((await storage.executions.list(project.id, 10)).items),
        "unfinished": len(await storage.executions.list_unfinished()),
        "execution": execution,
        "events": events,
    }


@pytest.mark.no_cover
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_crash_leaves_an_operation_done_or_not_done(
    storage: FileSystemStorage, root: Path, tmp_path: Path, name: str
) -> None:
    key = builders.credential()
    project = await storage.projects.create(builders.project_draft(), key)
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    execution = await storage.executions.create(builders.execution(project.id, idempotency=builders.idempotency()))
    await storage.executions.append(builders.events(execution.id, [builders.started(), builders.text_delta()]))
    before = await seen(storage, project, key, execution.id)
    await storage.stop()

    last = await run_crashes(root, tmp_path / "crashes", name, project.id, execution.id)

    done = FileSystemStorage(tmp_path / "crashes" / str(last))
    await done.start()
    after = await seen(done, project, key, execution.id)
    await done.stop()
    assert before != after
    assert last > STEPS.get(name, 9)
    outcomes = set()
    for number in range(1, last):
        folder = tmp_path / "crashes" / str(number)
        storage = FileSystemStorage(folder)
        await storage.start()
        found = await seen(storage, project, key, execution.id)
        assert found in (before, after), f"step {number}"
        outcomes.add(found == after)
        if found == before:
            assert leftovers(folder) == [], f"step {number}"
            assert files_of_the_index(folder) == files_of_the_index(root), f"step {number}"
            await OPERATIONS[name](storage, project.id, execution.id)
            assert await seen(storage, project, key, execution.id) == after
        assert leftovers(folder) == [], f"step {number}"
        assert len(files_of_the_index(folder)) == len(files_of_the_index(tmp_path / "crashes" / str(last)))
        await storage.stop()
    assert False in outcomes


def files_of_the_index(root: Path) -> set[str]:
    files = {name for name, content in tree(root).items() if content != b"(directory)"}
    return {name for name in files if name.startswith(".index/")}
