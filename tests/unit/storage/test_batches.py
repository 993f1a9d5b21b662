"""Those who catch up side by side, however far apart, read a log once."""

from __future__ import annotations

import pytest

from cloutagent_server.domain.events import StoredEvent, StoredEvents
from cloutagent_server.domain.execution import Execution
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.batches import Batches
from cloutagent_server.storage.filesystem.lines import in_memory
from tests.support import builders
from tests.unit.storage.conftest import OpenStorage

EVENTS = 4_000


def batch(size: int) -> StoredEvents:
    return StoredEvents(1, [b"x" * size])


def test_what_was_used_longest_ago_makes_room() -> None:
    batches = Batches(most_bytes=100)
    first, second, third = (batch(40) for _ in range(3))
    batches.keep(("e", 1, 0), first)
    batches.keep(("e", 1, 512), second)
    assert batches.get(("e", 1, 0)) is first
    batches.keep(("e", 1, 1024), third)
    assert (batches.get(("e", 1, 0)), batches.get(("e", 1, 512)), batches.get(("e", 1, 1024))) == (first, None, third)
    batches.keep(("f", 2, 0), batch(101))
    assert [batches.get(place) for place in (("e", 1, 0), ("e", 1, 1024), ("f", 2, 0))] == [None, None, None]
    batches.keep(("e", 1, 0), first)
    assert batches.get(("e", 1, 0)) is first


async def test_a_log_is_read_once_for_readers_that_are_far_apart(
    storage: FileSystemStorage, open_storage: OpenStorage, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    await storage.executions.append([builders.event(execution.id, 1, builders.started())])
    for after in range(1, EVENTS, 1_000):
        await storage.executions.append(builders.texts(execution.id, 1_000, after=after))
    await storage.executions.append([builders.event(execution.id, EVENTS + 2, builders.completed())])
    # Another process: it has none of these in memory.
    executions = (await open_storage()).executions
    reads = 0

    def counted(descriptor: int, size: int, start: int) -> bytes:
        nonlocal reads
        reads += 1
        return in_memory(descriptor, size, start)

    async def replayed() -> list[StoredEvent]:
        found: list[StoredEvent] = []
        while events := await executions.read_events(execution.id, len(found), 1_024):
            found += events
        return found

    first = await replayed()
    assert [event.sequence for event in first] == list(range(1, EVENTS + 3))
    monkeypatch.setattr("cloutagent_server.storage.filesystem.log.in_memory", counted)
    await replayed()
    assert await replayed() == first
    # The first time a thread may have read a part of it, which is read once more.
    assert reads <= EVENTS // 512 + 1
