"""Whatever a file system keeps of the calls when the power goes, what was acknowledged is there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.index import Index
from tests.faults.conftest import Count
from tests.support.faults.check import REBUILDS, losses
from tests.support.faults.power import Recorder, Tree, write_tree
from tests.support.faults.story import STEPS, credential, durable_lengths, states
from tests.support.faults.syscalls import Call, intercepted

pytestmark = pytest.mark.usefixtures("at_once")

PARTS = 8


async def recorded(folder: Path) -> Recorder:
    """Tell the story once and record it."""
    folder.mkdir()
    recorder = Recorder(folder)
    storage = FileSystemStorage(folder / "projects")
    with intercepted(folder, recorder):
        await storage.start()
        for step in STEPS.values():
            await step(storage)
            recorder.acknowledge()
        await storage.stop()
    real: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "/.locks/" not in name:
            real[name] = None if path.is_dir() else path.read_bytes()
    assert recorder.tree() == real
    return recorder


async def lose_power(recorder: Recorder, folder: Path, prefixes: Sequence[int], stride: int) -> tuple[int, list[str]]:
    """Look at every stride-th state that each of these prefixes may leave. Gives how many, and what is lost."""
    steps = list(STEPS.values())
    known = await states(steps)
    met: set[tuple[int, int]] = set()
    found: list[str] = []
    drawn = 0
    for prefix in prefixes:
        reached = recorder.acknowledged(prefix)
        least = durable_lengths(known[reached])
        for description, tree in recorder.states(prefix):
            drawn += 1
            fingerprint = (reached, hash(frozenset(tree.items())))
            if fingerprint in met or drawn % stride:
                continue
            met.add(fingerprint)
            write_tree(tree, folder / "after")
            until = reached + 2
            lost = await losses(
                folder / "after" / "projects",
                steps[: until - 1],
                known[:until],
                reached,
                least,
                rebuild=REBUILDS[len(met) % 3],
            )
            found += [f"at moment {prefix}, {reached} acknowledged, {description}: {loss}" for loss in lost]
            shutil.rmtree(folder / "after")
    return len(met), found


async def test_some_states_that_a_loss_of_power_leaves(folder: Path, count: Count) -> None:
    recorder = await recorded(folder / "story")
    prefixes = range(5, recorder.moments + 1, 9)
    tried, lost = await lose_power(recorder, folder, prefixes, 11)
    count("power-loss moments", len(prefixes))
    count("power-loss states", tried, lost)


async def test_a_directory_that_another_made_is_made_durable(tmp_path: Path) -> None:
    """Whoever made it may not have come so far."""
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    made = tmp_path / "projects" / ".index" / "keys" / credential("first").digest[:2]
    made.mkdir()
    synced = []

    def note(call: Call) -> object:
        if call.name == "fsync":
            synced.append(call.path)
        return call.complete()

    with intercepted(tmp_path, note):
        await STEPS["create the first project"](storage)
    await storage.stop()
    assert str(made.parent) in synced


async def test_an_index_that_is_cleared_in_part_is_not_taken_for_whole(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path / "projects")
    await storage.start()
    await STEPS["create the first project"](storage)
    await storage.stop()
    calls = []

    def note(call: Call) -> object:
        if call.changes:
            calls.append((call.name, Path(call.path).name))
        return call.complete()

    with intercepted(tmp_path, note):
        Index(tmp_path / "projects" / ".index").clear()
    assert calls[:2] == [("unlink", "version.json"), ("fsync", ".index")]


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
async def test_every_state_that_a_loss_of_power_leaves(folder: Path, count: Count, part: int) -> None:
    recorder = await recorded(folder / "story")
    size = recorder.moments // PARTS + 1
    prefixes = range(part * size, min((part + 1) * size, recorder.moments + 1))
    tried, lost = await lose_power(recorder, folder, prefixes, 1)
    count("power-loss moments", len(prefixes))
    count("power-loss states", tried, lost)
