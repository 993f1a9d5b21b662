"""One folder, several servers: two storages in this process, and one in a process of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cloutagent_server.domain.errors import ExecutionNotFound, RevisionConflict, StorageUnavailable
from cloutagent_server.domain.execution import Execution, Status
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage, locks
from tests.support import builders
from tests.support.secret_changes import put_secret, secrets_of
from tests.unit.storage.conftest import OpenStorage

DEADLINE = 30
REPOSITORY = Path(__file__).parents[3]

Ask = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def ask(storage: FileSystemStorage, root: Path) -> AsyncIterator[Ask]:
    """Gives commands to a second process on the folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.second_process", str(root)),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def answer() -> Any:
        return json.loads(await asyncio.wait_for(stdout.readline(), DEADLINE))

    async def command(*words: object) -> Any:
        stdin.write(json.dumps(words).encode() + b"\n")
        return await answer()

    try:
        assert await answer() == "ready"
        yield command
        stdin.close()
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def sequences(storage: FileSystemStorage, execution_id: str, after_sequence: int = 0) -> list[int]:
    found: list[int] = []
    while batch := await storage.executions.read_events(execution_id, after_sequence, 1000):
        found += [event.sequence for event in batch]
        after_sequence = found[-1]
    return found


async def test_a_stale_writer_is_refused(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    other = await open_storage()
    await storage.executions.append(builders.texts(execution.id, 2))
    await other.executions.append(builders.texts(execution.id, 2, after=2))
    with pytest.raises(RevisionConflict):
        await storage.executions.append(builders.texts(execution.id, 1, after=2))
    assert await sequences(storage, execution.id) == [1, 2, 3, 4]
    await storage.executions.append(builders.texts(execution.id, 1, after=4))
    assert await sequences(other, execution.id) == [1, 2, 3, 4, 5]


async def test_each_sees_at_once_what_the_other_wrote(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution
) -> None:
    other = await open_storage()
    for number in range(1, 6):
        writer, reader = (storage, other) if number % 2 else (other, storage)
        written = await writer.executions.append([builders.event(execution.id, number)])
        assert await reader.executions.read(execution.id) == written
        assert await sequences(reader, execution.id, number - 1) == [number]
        assert await sequences(reader, execution.id, number) == []
        updated = await writer.projects.update(project.id, ProjectChanges(name=f"name {number}"))
        assert await reader.projects.read(project.id) == updated


async def test_what_one_deletes_is_gone_for_the_other(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, execution: Execution
) -> None:
    other = await open_storage()
    second = await storage.executions.create(builders.execution(project.id))
    for one in (execution, second):
        await other.executions.append(builders.texts(one.id, 2))
    await storage.executions.delete(execution.id)
    await storage.projects.delete(project.id)
    for one in (execution, second):
        assert await other.executions.read(one.id) is None
        with pytest.raises(ExecutionNotFound):
            await other.executions.append([builders.event(one.id, 3)])


@pytest.mark.parametrize("end", ["revoked", "gone with its project"])
async def test_a_known_key_of_unchanged_files_needs_no_thread_and_ends_with_what_the_other_writes(
    storage: FileSystemStorage, open_storage: OpenStorage, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    kept, ended = builders.credential(), builders.credential(digest="e" * 64)
    project = await storage.projects.create(builders.project_draft(), kept)
    await storage.projects.change_keys(project.id, lambda keys: (*keys, builders.api_key(credential=ended)))
    other = await open_storage()
    # As if all that was written until now had been written long ago.
    monkeypatch.setattr("time.time_ns", lambda: 1 << 62)
    found = await storage.projects.find_key(ended.digest)
    assert found is not None and found.key.credential == ended
    with monkeypatch.context() as without_threads:
        without_threads.setattr("cloutagent_server.storage.filesystem.projects.off_loop", None)
        assert await storage.projects.find_key(ended.digest) == found
    if end == "revoked":
        await other.projects.change_keys(project.id, lambda keys: keys[:1])
        assert await storage.projects.find_key(kept.digest) is not None
    else:
        await other.projects.delete(project.id)
        assert await storage.projects.find_key(kept.digest) is None
    assert await storage.projects.find_key(ended.digest) is None


async def test_a_watcher_notices_what_the_other_appends_and_deletes(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    other = await open_storage()
    for number in range(1, 4):
        watchers = [asyncio.create_task(other.executions.wait_for_events(execution.id, number - 1)) for _ in range(3)]
        await asyncio.wait(watchers, timeout=0.05)
        await storage.executions.append([builders.event(execution.id, number)])
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*watchers)
        assert await sequences(other, execution.id, number - 1) == [number]
    watcher = asyncio.create_task(other.executions.wait_for_events(execution.id, 3))
    await asyncio.wait({watcher}, timeout=0.05)
    await storage.executions.delete(execution.id)
    await asyncio.wait_for(watcher, DEADLINE)


async def test_damage_that_appears_wakes_a_watcher(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    watcher = asyncio.create_task(storage.executions.wait_for_events(execution.id, 0))
    await asyncio.wait({watcher}, timeout=0.05)
    with log_path.open("ab") as file:
        file.write(b"garbage\n")
    with pytest.raises(Exception, match="damaged"):
        await asyncio.wait_for(watcher, DEADLINE)


async def test_a_second_process_appends_and_is_watched(
    storage: FileSystemStorage, execution: Execution, ask: Ask
) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    watcher = asyncio.create_task(storage.executions.wait_for_events(execution.id, 2))
    await asyncio.wait({watcher}, timeout=0.05)
    assert await ask("append", execution.id, 2, 3) == 5
    await asyncio.wait_for(watcher, DEADLINE)
    assert await sequences(storage, execution.id) == [1, 2, 3, 4, 5]
    with pytest.raises(RevisionConflict):
        await storage.executions.append([builders.event(execution.id, 3)])
    assert await ask("append", execution.id, 4, 1) == {"error": "RevisionConflict"}
    assert await ask("finish", execution.id, 5) == "cancelled"
    ended = await storage.executions.read(execution.id)
    assert ended is not None
    assert ended.status is Status.CANCELLED
    assert await storage.executions.list_unfinished() == ()


async def test_writers_in_two_processes_leave_no_gap(
    storage: FileSystemStorage, execution: Execution, ask: Ask
) -> None:
    competing = asyncio.create_task(ask("compete", execution.id, 30))
    for _ in range(30):
        while True:
            seen = await storage.executions.read(execution.id)
            assert seen is not None
            try:
                await storage.executions.append([builders.event(execution.id, seen.last_sequence + 1)])
                break
            except RevisionConflict:
                continue
    await competing
    assert await sequences(storage, execution.id) == list(range(1, 61))


async def test_secrets_put_by_two_processes_lose_nothing(
    storage: FileSystemStorage, project: Project, ask: Ask
) -> None:
    putting = asyncio.create_task(ask("put secrets", project.id, "THEIRS", 15))
    for number in range(15):
        await put_secret(storage, project.id, f"OURS_{number}", builders.sealed_secret())
    await putting
    expected = {f"{prefix}_{number}" for prefix in ("OURS", "THEIRS") for number in range(15)}
    assert set(await secrets_of(storage, project.id)) == expected


async def test_two_processes_create_one_execution_for_one_key(
    storage: FileSystemStorage, project: Project, ask: Ask
) -> None:
    for number in range(5):
        wanted = builders.execution(project.id, idempotency=builders.idempotency(key=f"key {number}"))
        ours, theirs = await asyncio.gather(
            storage.executions.create(wanted), ask("create execution", project.id, f"key {number}")
        )
        assert ours.id == theirs
    assert len((await storage.executions.list(project.id, 100)).items) == 5


async def test_the_event_loop_runs_on_while_another_process_holds_a_lock(
    storage: FileSystemStorage, project: Project, root: Path
) -> None:
    with FileLock(root / ".locks" / f"{project.id[:2]}.lock"):
        updating = asyncio.create_task(storage.projects.update(project.id, ProjectChanges(name="new")))
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert await storage.projects.read(project.id) == project
        assert not updating.done()
    assert (await asyncio.wait_for(updating, DEADLINE)).name == "new"


async def test_a_lock_that_is_never_given_back(
    storage: FileSystemStorage, project: Project, execution: Execution, log_path: Path, root: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with FileLock(root / ".locks" / f"{project.id[:2]}.lock"), pytest.raises(StorageUnavailable) as caught:
        await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert caught.value.cause == f"another process keeps {root}/.locks/{project.id[:2]}.lock"
    descriptor = os.open(log_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(StorageUnavailable) as caught:
            await storage.executions.append([builders.event(execution.id, 1)])
    finally:
        os.close(descriptor)
    assert caught.value.cause == f"another process keeps {log_path}"
    assert (await storage.executions.append([builders.event(execution.id, 1)])).last_sequence == 1
