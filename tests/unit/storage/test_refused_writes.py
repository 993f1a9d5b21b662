"""A medium that refuses: whichever call fails, the error says so and nothing has changed."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project, ProjectChanges
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.support.folders import leftovers, tree
from tests.support.secret_changes import put_secret, remove_secret

CALLS = ("write", "fsync", "rename", "mkdir", "open")


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: int) -> Iterator[list[str]]:
    """Let the call of this number, counted from 1, and none after it, fail. Gives what failed."""
    made = 0
    failed: list[str] = []
    real = getattr(os, call)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        if (call == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR)) or (call == "mkdir" and Path(args[0]).exists()):
            return real(*args, **kwargs)
        made += 1
        if made == number:
            failed.append(f"{call} {args}")
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        yield failed


Operation = Callable[[FileSystemStorage, Project, Execution], Awaitable[object]]


async def _use_keys(storage: FileSystemStorage, project: Project, time: int) -> None:
    keys = await storage.projects.read_keys(project.id)
    await storage.projects.note_key_uses(project.id, {key.id: builders.at(time) for key in keys})


OPERATIONS: dict[str, Operation] = {
    "create project": lambda storage, _, __: storage.projects.create(builders.project_draft(), builders.credential()),
    "update project": lambda storage, project, _: storage.projects.update(project.id, ProjectChanges(name="new")),
    "change keys": lambda storage, project, _: storage.projects.change_keys(
        project.id, lambda keys: (builders.api_key(), *keys[1:])
    ),
    "note key uses": lambda storage, project, _: _use_keys(storage, project, 2),
    "put secret": lambda storage, project, _: put_secret(storage, project.id, "NEW", builders.sealed_secret()),
    "remove secret": lambda storage, project, _: remove_secret(storage, project.id, "TOKEN"),
    "put key check": lambda storage, _, __: storage.secrets.put_key_check(builders.sealed_secret()),
    "create execution": lambda storage, project, _: storage.executions.create(
        builders.execution(project.id, idempotency=builders.idempotency())
    ),
    "append": lambda storage, _, execution: storage.executions.append(builders.texts(execution.id, 2, after=2)),
}


# Once the values are written the change stands: that the manifest could not be settled is left to the next change.
STAND_WITHOUT_THEIR_END = ("put secret", "remove secret")


def without_empty_directories(root: Path) -> dict[str, bytes]:
    """What counts as unchanged: directories of the index may stay."""
    return {
        name: content
        for name, content in tree(root).items()
        if not (name.startswith(".index/") and content == b"(directory)")
    }


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_refused_operation_changes_nothing(
    storage: FileSystemStorage,
    project: Project,
    execution: Execution,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    call: str,
) -> None:
    await _use_keys(storage, project, 1)
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    await storage.executions.append(builders.events(execution.id, [builders.started(), builders.text_delta()]))
    before = without_empty_directories(root)
    for number in range(1, 40):
        with refusing(monkeypatch, call, number, errno.ENOSPC) as failed:
            (result,) = await asyncio.gather(OPERATIONS[name](storage, project, execution), return_exceptions=True)
        if not failed or (name in STAND_WITHOUT_THEIR_END and not isinstance(result, BaseException)):
            break
        assert isinstance(result, StorageUnavailable), failed
        assert os.strerror(errno.ENOSPC) in result.cause
        assert os.strerror(errno.ENOSPC) not in result.message
        assert without_empty_directories(root) == before, failed
    else:
        pytest.fail("the operation never came to its end")
    assert without_empty_directories(root) != before
    assert leftovers(root) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_refused_update_keeps_the_old_data(
    storage: FileSystemStorage,
    project: Project,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
) -> None:
    with refusing(monkeypatch, call, 1, code) as failed, pytest.raises(StorageUnavailable):
        await storage.projects.update(project.id, ProjectChanges(name="new"))
    assert failed
    assert await storage.projects.read(project.id) == project
    assert leftovers(root) == []
    assert (await storage.projects.update(project.id, ProjectChanges(name="newer"))).revision == 2


async def test_a_refused_terminal_append_leaves_the_execution_unfinished(
    storage: FileSystemStorage, execution: Execution, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await storage.executions.append(builders.events(execution.id, [builders.started()]))
    content = log_path.read_bytes()
    end = builders.events(execution.id, [builders.text_delta(), builders.completed()], after=1)
    for call in ("write", "fsync"):
        with refusing(monkeypatch, call, 1, errno.EIO) as failed, pytest.raises(StorageUnavailable):
            await storage.executions.append(end)
        assert failed
        assert log_path.read_bytes() == content
        assert await storage.executions.read(execution.id) == running
        assert await storage.executions.list_unfinished() == (running,)
    assert (await storage.executions.append(end)).status.terminal
    assert await storage.executions.list_unfinished() == ()


async def test_a_write_cut_short_is_taken_back(
    storage: FileSystemStorage, execution: Execution, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    content = log_path.read_bytes()
    real = os.write

    def half_then_full(descriptor: int, data: bytes) -> int:
        if real(descriptor, data[: len(data) // 2]) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data) // 2

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(StorageUnavailable):
            await storage.executions.append(builders.texts(execution.id, 10, after=2))
    assert log_path.read_bytes() == content
    assert (await storage.executions.append(builders.texts(execution.id, 10, after=2))).last_sequence == 12


async def test_writes_in_many_pieces_arrive_whole(
    storage: FileSystemStorage, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
        await storage.executions.append(builders.texts(execution.id, 3))
    assert [event.sequence for event in await storage.executions.read_events(execution.id, 0, 10)] == [1, 2, 3]


async def test_a_refused_deletion_of_a_project_keeps_it_whole(
    storage: FileSystemStorage, project: Project, execution: Execution, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    for call in ("rename", "fsync"):
        with refusing(monkeypatch, call, 1, errno.EIO) as failed, pytest.raises(StorageUnavailable):
            await storage.projects.delete(project.id)
        assert failed
        assert tree(root) == before
    assert await storage.executions.read(execution.id) == execution


async def test_a_deletion_that_cannot_clean_up_has_still_deleted(
    storage: FileSystemStorage, project: Project, execution: Execution, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the project is moved aside it is gone; what could not be removed goes at the next start."""
    with refusing(monkeypatch, "unlink", 1, errno.EIO) as failed:
        await storage.projects.delete(project.id)
    assert failed
    assert await storage.projects.read(project.id) is None
    assert await storage.executions.read(execution.id) is None
    assert leftovers(root)
    await storage.start()
    assert leftovers(root) == []
    assert await storage.executions.list_unfinished() == ()


async def test_a_change_of_keys_that_cannot_clean_up_has_still_changed_them(
    storage: FileSystemStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked key is dead even while the index still leads to its project; the next start tidies up."""
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    with monkeypatch.context() as patch:
        real, calls = os.unlink, 0

        def refuse(path: Any, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            if credential.digest in str(path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(path, **kwargs)

        patch.setattr(os, "unlink", refuse)
        await storage.projects.change_keys(project.id, lambda _: ())
    assert calls
    assert await storage.projects.find_key(credential.digest) is None
    entries = [path for path in (root / ".index").rglob("*") if path.name in (credential.digest, project.id)]
    assert len(entries) == 2
    await storage.start()
    assert not [path for path in entries if path.exists()]


async def test_a_state_that_cannot_be_written_does_not_fail_the_append(
    storage: FileSystemStorage, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is the truth, and it took the event."""
    with refusing(monkeypatch, "rename", 1, errno.ENOSPC) as failed:
        running = await storage.executions.append(builders.events(execution.id, [builders.started()]))
    assert failed
    assert await storage.executions.read(execution.id) == running


async def test_a_state_that_cannot_be_read_does_not_fail_the_append(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    state = log_path.parent / "state.json"
    state.mkdir()
    running = await storage.executions.append(builders.events(execution.id, [builders.started()]))
    assert await storage.executions.read(execution.id) == running


async def test_a_folder_that_cannot_be_made(root: Path) -> None:
    root.parent.mkdir()
    root.write_text("a file stands here")
    with pytest.raises(StorageUnavailable):
        await FileSystemStorage(root).start()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_running_out_of_descriptors_is_not_damage(
    storage: FileSystemStorage, project: Project, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(StorageUnavailable):
            await storage.projects.read(project.id)


async def test_a_medium_that_is_tried_and_refuses_is_told_and_nothing_is_left(
    storage: FileSystemStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    await storage.check_writable()
    for call in ("write", "fsync"):
        with refusing(monkeypatch, call, 1, errno.ENOSPC) as failed, pytest.raises(StorageUnavailable) as refused:
            await storage.check_writable()
        assert failed and refused.value.cause == f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}"
    await storage.check_writable()
    assert tree(root) == before
