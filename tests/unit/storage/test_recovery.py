"""Starting on a folder: what a crash left is completed or undone, and a missing index is built."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.faults.syscalls import Call, intercepted
from tests.support.folders import leftovers, tree
from tests.support.key_owner import owner_of
from tests.unit.storage.conftest import OpenStorage


async def test_starting_again_changes_nothing(storage: FileSystemStorage, execution: Execution, root: Path) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.started()]))
    before = tree(root)
    await storage.start()
    assert tree(root) == before


async def test_a_project_that_was_being_created_is_undone(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path
) -> None:
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    (root / project.id).rename(root / ".staging" / f".tmp-{project.id}")
    (root / ".staging" / ".tmp-").mkdir()
    (root / ".staging" / ".tmp-file").write_text("x")
    other = await open_storage()
    assert leftovers(root) == []
    assert await other.projects.find_key(credential.digest) is None
    assert (await other.projects.list(10)).items == ()
    assert [path for path in (root / ".index").rglob("*") if path.is_file()] == [root / ".index" / "version.json"]


async def test_an_execution_that_was_being_created_is_undone(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    wanted = builders.idempotency()
    before = [path for path in (root / ".index").rglob("*") if path.is_file()]
    execution = await storage.executions.create(builders.execution(project.id, idempotency=wanted))
    home = root / project.id / "executions" / execution.id
    home.rename(home.with_name(f".tmp-{execution.id}"))
    other = await open_storage()
    assert leftovers(root) == []
    assert [path for path in (root / ".index").rglob("*") if path.is_file()] == before
    assert await other.executions.list_unfinished() == ()
    again = builders.execution(project.id, idempotency=wanted)
    assert await other.executions.create(again) == again


async def test_a_mark_alone_is_removed(storage: FileSystemStorage, open_storage: OpenStorage, root: Path) -> None:
    mark = root / ".index" / "unfinished" / new_id()
    mark.touch()
    await open_storage()
    assert not mark.exists()


async def test_the_mark_of_an_ended_execution_is_removed(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, root: Path
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.cancelled()]))
    mark = root / ".index" / "unfinished" / execution.id
    mark.touch()
    assert await storage.executions.list_unfinished() == ()
    await open_storage()
    assert not mark.exists()


async def test_a_deletion_that_was_interrupted_is_finished(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, root: Path
) -> None:
    credential = builders.credential()
    second = await storage.projects.create(builders.project_draft(), credential)
    theirs = await storage.executions.create(builders.execution(second.id, idempotency=builders.idempotency()))
    (root / project.id / "executions" / execution.id).rename(root / ".trash" / f"execution-{execution.id}")
    (root / second.id).rename(root / ".trash" / f"project-{second.id}")
    (root / ".trash" / "something else").mkdir()
    other = await open_storage()
    assert leftovers(root) == []
    assert (await other.projects.list(10)).items == (project,)
    assert await other.projects.find_key(credential.digest) is None
    assert await other.executions.list_unfinished() == ()
    for gone in (execution.id, theirs.id, second.id):
        assert not [name for name in tree(root) if gone in name]


async def test_temporary_files_of_interrupted_writes_are_removed(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    (root / ".staging" / f".tmp-{project.id}-metadata.json").write_text("{")
    (root / ".staging" / f".tmp-{project.id}-.secrets-secrets.enc").write_text("{")
    other = await open_storage()
    assert leftovers(root) == []
    assert await other.projects.read(project.id) == project


async def test_a_start_looks_at_no_project_when_nothing_is_half_done(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, root: Path
) -> None:
    """Only at the marks of what may be half done, and at the one unfinished execution."""
    other = await storage.projects.create(builders.project_draft(), builders.credential())
    met = set()

    def note(call: Call) -> object:
        met.add(call.path)
        return call.complete()

    with intercepted(root, note):
        await open_storage()
    assert not [path for path in met if other.id in path]
    assert str(root / project.id) not in met
    assert not any(call.startswith(str(root / ".index" / "projects")) for call in met if Path(call).is_file())
    assert str(root / ".staging") in met


async def test_a_missing_index_is_built_from_the_records(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path
) -> None:
    credentials = [builders.credential() for _ in range(3)]
    projects = [await storage.projects.create(builders.project_draft(), credential) for credential in credentials]
    wanted = builders.idempotency()
    running = await storage.executions.create(builders.execution(projects[0].id, idempotency=wanted))
    ended = await storage.executions.create(builders.execution(projects[0].id, created_at=builders.at(1)))
    ended = await storage.executions.append(builders.events(ended.id, builders.payloads_of_a_run()))
    before = tree(root)
    shutil.rmtree(root / ".index")
    other = await open_storage()
    assert tree(root) == before
    assert set((await other.projects.list(10)).items) == set(projects)
    for project, credential in zip(projects, credentials, strict=True):
        assert await owner_of(other, credential) == project.id
    assert (await other.executions.list(projects[0].id, 10)).items == (ended, running)
    assert await other.executions.list_unfinished() == (running,)
    assert await other.executions.create(builders.execution(projects[0].id, idempotency=wanted)) == running


async def test_building_the_index_that_was_interrupted_begins_again(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    before = tree(root)
    (root / ".index" / "version.json").unlink()
    (root / ".index" / "projects" / "stale").touch()
    other = await open_storage()
    assert tree(root) == before
    assert (await other.projects.list(10)).items == (project,)


async def test_damaged_records_do_not_keep_the_index_from_being_built(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution, log_path: Path
) -> None:
    """They are found again, as what they are: damaged."""
    log_path.write_bytes(b"garbage\n")
    broken = await storage.projects.create(builders.project_draft(), builders.credential())
    root = log_path.parents[3]
    (root / broken.id / "metadata.json").write_bytes(b"{")
    shutil.rmtree(root / ".index")
    other = await open_storage()
    assert (await other.projects.list(10)).items == (project,)
    results = await asyncio.gather(
        other.executions.read(execution.id), other.projects.read(broken.id), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["StoredDataDamaged"] * 2


async def test_foreign_files_in_the_folder_are_left_alone(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    (root / "README.txt").write_text("mine")
    (root / "lost+found").mkdir()
    (root / project.id / "executions" / "notes.txt").write_text("mine")
    shutil.rmtree(root / ".index")
    other = await open_storage()
    assert (await other.projects.list(10)).items == (project,)
    assert (root / "README.txt").read_text() == "mine"
    assert json.loads((root / ".index" / "version.json").read_bytes()) == {"schemaVersion": 2}
