"""The log on disk after crashes, and its snapshot: the log is the truth."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.events import FailureReason, StoredEvent, TerminalPayload
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.log import ExecutionLog
from cloutagent_server.storage.filesystem.log_lines import sealed
from tests.support import builders
from tests.unit.storage.conftest import OpenStorage


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
async def test_a_torn_last_line_is_not_shown_and_is_cut_by_the_next_append(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path, cut: int
) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    whole = log_path.read_bytes()
    torn = whole + event_json.encode(builders.event(execution.id, 4)).data[:cut]
    log_path.write_bytes(torn)
    other = await open_storage()
    read = await other.executions.read(execution.id)
    assert read is not None
    assert read.last_sequence == 3
    assert len(await other.executions.read_events(execution.id, 0, 10)) == 3
    assert log_path.read_bytes() == torn
    event = builders.event(execution.id, 4, builders.message("whole"))
    await other.executions.append([event])
    assert log_path.read_bytes() == whole + sealed(event_json.encode(event).data)


async def test_a_line_torn_by_another_process_is_cut_by_a_log_that_is_open(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    whole = log_path.read_bytes()
    with log_path.open("ab") as file:
        file.write(b'{"executionId":"')
    assert list(await storage.executions.read_events(execution.id, 3, 10)) == []
    await storage.executions.append(builders.texts(execution.id, 1, after=3))
    last = event_json.encode(builders.texts(execution.id, 4)[3]).data
    assert log_path.read_bytes() == whole + sealed(last)


def without(path: Path) -> None:
    path.unlink()


def damaged(path: Path) -> None:
    path.write_bytes(b"{")


def newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion": 1', b'"schemaVersion": 2'))


def set_to(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        document = json.loads(path.read_bytes())
        document.update(changes)
        path.write_bytes(json.dumps(document).encode())

    return change


def log_size_inside_a_line(path: Path) -> None:
    set_to(logSize=json.loads(path.read_bytes())["logSize"] - 1)(path)


@pytest.mark.parametrize(
    "change",
    [
        without,
        damaged,
        newer,
        log_size_inside_a_line,
        set_to(lastSequence=5),
        set_to(lastSequence=0),
        set_to(status="nonsense"),
        set_to(failure={"reason": "bad luck", "message": "x"}),
        set_to(executionId="0f0e0d0c-0b0a-4908-8706-050403020100"),
        set_to(usage={}),
    ],
    ids=range(10),
)
async def test_the_state_is_rebuilt_from_the_log(
    storage: FileSystemStorage,
    open_storage: OpenStorage,
    execution: Execution,
    log_path: Path,
    change: Callable[[Path], None],
) -> None:
    finished = await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run()))
    state = log_path.parent / "state.json"
    right = state.read_bytes()
    change(state)
    other = await open_storage()
    assert await other.executions.read(execution.id) == finished
    assert state.read_bytes() == right


async def test_a_state_that_is_behind_is_brought_up_to_date(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    state = log_path.parent / "state.json"
    events = builders.events(execution.id, builders.payloads_of_a_run())
    old: list[bytes] = []
    finished = execution
    for event in events:
        finished = await storage.executions.append([event])
        if state.exists():
            old.append(state.read_bytes())
    assert len(set(old)) > 1
    right = state.read_bytes()
    for content in old:
        state.write_bytes(content)
        other = await open_storage()
        assert await other.executions.read(execution.id) == finished
        assert list(await other.executions.read_events(execution.id, 0, 100)) == [
            event_json.encode(event) for event in events
        ]
        assert state.read_bytes() == right


@pytest.mark.parametrize(
    "end",
    [
        builders.completed(result="Ä" * 10_000),
        builders.completed(truncated=True),
        builders.failed(),
        builders.failed(failure=builders.failure(reason=FailureReason.INTERRUPTED, exceeded=None)),
        builders.cancelled(),
    ],
)
async def test_an_ended_execution_is_read_from_its_state(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, end: TerminalPayload
) -> None:
    finished = await storage.executions.append(builders.events(execution.id, builders.payloads_of_a_run(end)))
    other = await open_storage()
    with capture_logs() as logs:
        assert await other.executions.read(execution.id) == finished
    assert logs == []


async def test_events_after_the_state_are_applied(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    """While a run goes on the state on disk stays at its start; whoever reads sees all events."""
    await storage.executions.append(builders.events(execution.id, [builders.started()]))
    running = await storage.executions.append(
        builders.events(execution.id, [builders.text_delta(), builders.token_used()], after=1)
    )
    other = await open_storage()
    assert await other.executions.read(execution.id) == running
    assert (await other.executions.append([builders.event(execution.id, 4)])).last_sequence == 4


async def test_what_a_snapshot_covers_is_not_read_again(
    storage: FileSystemStorage,
    open_storage: OpenStorage,
    execution: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.started()]))
    await storage.executions.append(builders.texts(execution.id, 2000, after=1))
    finished = await storage.executions.append(builders.events(execution.id, [builders.completed()], after=2001))
    other = await open_storage()
    decoded = 0
    real = event_json.decode

    def counting(data: bytes) -> Any:
        nonlocal decoded
        decoded += 1
        return real(data)

    with monkeypatch.context() as patch:
        patch.setattr(event_json, "decode", counting)
        assert await other.executions.read(execution.id) == finished
        assert len(await other.executions.read_events(execution.id, 0, 10_000)) > 0
    assert decoded == 0


async def test_a_replay_reads_the_file_about_once(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path, monkeypatch: Any
) -> None:
    count = 5000
    for start in range(0, count, 500):
        await storage.executions.append(builders.texts(execution.id, 500, after=start))
    await storage.executions.append(builders.events(execution.id, [builders.cancelled()], after=count))
    other = await open_storage()
    requested = 0
    real = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        nonlocal requested
        data = real(descriptor, length, offset)
        requested += len(data)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", counting)
        cursor = 0
        while batch := await other.executions.read_events(execution.id, cursor, 256):
            assert [event.sequence for event in batch] == list(range(cursor + 1, cursor + 1 + len(batch)))
            cursor = batch[-1].sequence
    assert cursor == count + 1
    # Each batch of 256 events reads blocks of 256 KiB, of which it needs some 45 KiB.
    assert requested < 8 * log_path.stat().st_size


async def test_large_logs_are_read_from_any_cursor(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    texts = [builders.text_delta(f"{number} " * (number * 37 % 3000)) for number in range(1, 701)]
    events = builders.events(execution.id, texts)
    for start in range(0, 700, 70):
        await storage.executions.append(events[start : start + 70])
    other = await open_storage()
    for opened in (storage, other):
        for cursor in (0, 63, 64, 65, 300, 640, 698):
            expected = [event_json.encode(event) for event in events[cursor : cursor + 5]]
            batch: list[StoredEvent] = []
            while more := await opened.executions.read_events(execution.id, cursor + len(batch), 5 - len(batch)):
                batch += more
            assert batch == expected


async def test_a_log_that_shrinks_while_it_is_read(
    storage: FileSystemStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.texts(execution.id, 3))
    log = ExecutionLog(log_path.parent)
    try:
        os.truncate(log_path, log_path.stat().st_size - 5)
        with pytest.raises(StoredDataDamaged) as caught:
            log.read(0, 10)
    finally:
        log.close()
    assert caught.value.fault == "ends at event 2, not 3"


async def test_a_log_that_may_not_be_opened(
    storage: FileSystemStorage,
    open_storage: OpenStorage,
    execution: Execution,
    log_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = await open_storage()
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == log_path:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(StoredDataDamaged) as caught:
            await other.executions.read(execution.id)
    assert (caught.value.location, caught.value.fault) == (str(log_path), "Permission denied")


@pytest.mark.no_cover
async def test_more_logs_than_may_stay_open(storage: FileSystemStorage, project: Project) -> None:
    executions = [await storage.executions.create(builders.execution(project.id)) for _ in range(150)]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for round_ in range(2):
        for execution in executions:
            await storage.executions.append(builders.texts(execution.id, 2, after=2 * round_))
    assert len(os.listdir("/proc/self/fd")) - before < 2 * 128 + 10  # noqa: PTH208
    for execution in executions:
        assert len(await storage.executions.read_events(execution.id, 0, 10)) == 4


async def test_stop_closes_every_file(storage: FileSystemStorage, execution: Execution, root: Path) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    await storage.executions.read_events(execution.id, 0, 1)
    await storage.stop()
    held = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [path for path in held if path.startswith(str(root))]


async def test_nothing_acknowledged_is_lost_without_stop(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution
) -> None:
    appended = await storage.executions.append(builders.texts(execution.id, 7))
    other = await open_storage()
    assert await other.executions.read(execution.id) == appended


async def test_a_terminal_event_is_synced_before_append_returns(
    storage: FileSystemStorage, execution: Execution, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.started()]))
    synced: list[tuple[str, bytes]] = []
    real = os.fsync

    def noting(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, path.read_bytes() if path.is_file() else b""))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noting)
        await storage.executions.append([builders.event(execution.id, 2)])
        assert synced == []
        await storage.executions.append(builders.events(execution.id, [builders.completed()], after=2))
    assert synced[0] == ("events.jsonl", log_path.read_bytes())


@pytest.mark.parametrize("ended", [False, True])
async def test_a_log_cut_at_the_end_of_a_line_is_damage_and_nothing_is_written_over(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path, ended: bool
) -> None:
    payloads = builders.payloads_of_a_run()
    await storage.executions.append(builders.events(execution.id, payloads if ended else payloads[:3]))
    untouched = await storage.executions.create(builders.execution(execution.project_id))
    await storage.stop()
    lines = log_path.read_bytes().splitlines(keepends=True)
    log_path.write_bytes(b"".join(lines[:-1]))
    state = log_path.parent / "state.json"
    kept = log_path.read_bytes(), state.read_bytes()
    with capture_logs() as logs:
        other = await open_storage()
    reported = [entry for entry in logs if entry["event"] == "damaged_record_left_out"]
    assert [entry["location"] for entry in reported] == ([] if ended else [str(log_path)])
    with pytest.raises(StoredDataDamaged) as caught:
        await other.executions.read(execution.id)
    assert (caught.value.location, caught.value.fault) == (
        str(log_path),
        "is shorter than state.json tells: it was cut",
    )
    assert await other.executions.read(untouched.id) == untouched
    assert (log_path.read_bytes(), state.read_bytes()) == kept
    state.unlink()  # what the doctor advises if the log is right
    read = await other.executions.read(execution.id)
    assert read is not None and read.last_sequence == len(lines) - 2
