"""Zeros that a loss of power leaves among the last text deltas."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support import builders
from tests.unit.storage.conftest import OpenStorage


def blank(path: Path, sequence: int) -> None:
    """Make zeros of the line of an event."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[sequence] = bytes(len(lines[sequence]))
    path.write_bytes(b"".join(lines))


async def test_the_log_of_an_unfinished_execution_is_cut_in_front_of_them(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.events(execution.id, [builders.started()]))
    await storage.executions.append(builders.texts(execution.id, 4, 1))
    await storage.stop()
    blank(log_path, 3)
    again = await open_storage()
    assert [event.sequence for event in await again.executions.read_events(execution.id, 0, 10)] == [1, 2]
    assert (await again.executions.append(builders.texts(execution.id, 1, 2))).last_sequence == 3


@pytest.mark.parametrize("end", [False, True])
async def test_what_was_durable_is_damaged_and_keeps_its_bytes(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path, end: bool
) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    await storage.executions.append([builders.event(execution.id, 3, builders.started())])
    if end:
        await storage.executions.append([builders.event(execution.id, 4, builders.completed())])
    await storage.stop()
    blank(log_path, 1)
    damaged = log_path.read_bytes()
    again = await open_storage()
    if end:
        assert await again.executions.read(execution.id) is not None
    with pytest.raises(StoredDataDamaged):
        await again.executions.read_events(execution.id, 0, 10)
    assert log_path.read_bytes() == damaged


async def test_a_first_line_that_is_no_execution_is_left_alone(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, log_path: Path
) -> None:
    await storage.executions.append(builders.texts(execution.id, 2))
    await storage.stop()
    blank(log_path, 2)
    damaged = log_path.read_bytes().replace(b'"schemaVersion":', b'"noVersionAtAll":', 1)
    log_path.write_bytes(damaged)
    again = await open_storage()
    with pytest.raises(StoredDataDamaged):
        await again.executions.read(execution.id)
    assert log_path.read_bytes() == damaged
