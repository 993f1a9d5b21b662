"""A backup or a restore killed at any of its calls: a backup is whole or not there, a project old or new as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.backup import keeping
from cloutagent_server.storage.filesystem.backup.create import back_up
from cloutagent_server.storage.filesystem.backup.restore import restore
from cloutagent_server.storage.filesystem.backup.verify import verify
from tests.faults.conftest import Count, Order
from tests.support import builders
from tests.support.faults.check import examined, losses
from tests.support.faults.story import LABELS, STEPS, State, lengths, shown, states
from tests.support.faults.syscalls import unsynced
from tests.support.folders import leftovers

pytestmark = pytest.mark.usefixtures("at_once")

EARLIER = list(STEPS).index("append a text") + 1
LATER = list(STEPS).index("append to it") + 1
KEPT = 3

Parts = Mapping[str, Any]


async def told(folder: Path) -> None:
    """Tell the story up to where two projects have everything; keep the folder as it is in the middle of that too."""
    with unsynced():
        storage = FileSystemStorage(folder / "later" / "projects")
        await storage.start()
        for number, step in enumerate(list(STEPS.values())[:LATER]):
            if number == EARLIER:
                shutil.copytree(folder / "later", folder / "earlier")
            await step(storage)
        await storage.stop()


def by_project(state: State) -> Parts:
    """What is seen of each project, and of the folder. Restoring raises a project's revision, so that is left out."""
    parts: dict[str, Any] = {"key check": state.records["key check"]}
    for label in LABELS:
        project, *rest = state.records.get(label, (None,))
        owned = [name for name, owner in state.records.items() if name.startswith("owner of ") and owner == label]
        mine = {key: value for key, value in state.executions.items() if value.project_id == label}
        logs = {key: state.logs[key] for key in mine}
        parts[label] = (project and replace(project, revision=0), rest, owned, mine, logs)
    return parts


async def seen(root: Path) -> Parts:
    """What a server that starts now sees, by project."""
    with unsynced():
        storage = FileSystemStorage(root)
        await storage.start()
        parts = by_project(await shown(storage))
        await storage.stop()
    return parts


def strays(root: Path) -> Sequence[str]:
    """What must not be in a folder that a server has started on."""
    waiting = root / ".restore"
    return [
        *(f"{name} stays" for name in leftovers(root)),
        *(f"{path.name} waits to be restored" for path in (waiting.iterdir() if waiting.exists() else ())),
        *(f"the doctor finds {finding.path}: {finding.fault}" for finding in examined(root)),
    ]


async def points_of(order: Order, task: str, base: Path, trial: Path, **more: object) -> Sequence[tuple[int, str]]:
    """Every moment of a task."""
    shutil.copytree(base, trial)
    whole = await order(task, trial / "projects", **more)
    assert not whole["killed"]
    shutil.rmtree(trial)
    before = [(number, "before") for number in range(1, whole["calls"] + 1)]
    return sorted([*before, *((number, "half") for number in whole["writes"]), (whole["calls"], "after")])


async def test_a_killed_backup_is_whole_or_not_there(order: Order, folder: Path, count: Count) -> None:
    await told(folder)
    steps = list(STEPS.values())[:LATER]
    known = await states(steps)
    trial = folder / "trial"
    directory = trial / "backups"
    target = keeping.path_at(directory, builders.at(0))
    points = await points_of(order, "back up", folder / "later", trial, archive=str(target))
    whole = 0
    lost: list[str] = []
    for number, moment in points:
        shutil.copytree(folder / "later", trial)
        assert (await order("back up", trial / "projects", number, moment, archive=str(target)))["killed"]
        found = await losses(trial / "projects", steps, known, LATER, lengths(known[LATER]))
        if target.exists():
            whole += 1
            verify(target)
        again = keeping.path_at(directory, builders.at(1))
        back_up(trial / "projects", again, "1.2.3", executions=True)
        keeping.prune(directory, KEPT)
        wanted = {again.name, target.name} if target.exists() else {again.name}
        left = {path.name for path in directory.iterdir()}
        found = [*found, *([] if left == wanted else [f"{sorted(left)} are there"])]
        lost += [f"call {number}, {moment}: {one}" for one in found]
        shutil.rmtree(trial)
    assert 0 < whole < len(points)
    count("kill points of backup and restore", len(points), lost)


async def kill_restore(order: Order, base: Path, archive: Path, trial: Path, take: slice) -> tuple[int, list[str]]:
    """Kill a restore into a copy of `base` at the moments of `take`. Gives how many there were, and what is lost."""
    points = (await points_of(order, "restore", base, trial, archive=str(archive)))[take]
    before = await seen(base / "projects")
    shutil.copytree(base, trial)
    restore(archive, trial / "projects", replace_existing=True, dry_run=False)
    after = await seen(trial / "projects")
    shutil.rmtree(trial)
    assert before != after
    lost: list[str] = []
    for number, moment in points:
        shutil.copytree(base, trial)
        assert (await order("restore", trial / "projects", number, moment, archive=str(archive)))["killed"]
        found = await seen(trial / "projects")
        wrong = [f"{name} is neither" for name in found if found[name] not in (before[name], after[name])]
        wrong += strays(trial / "projects")
        with unsynced():
            restore(archive, trial / "projects", replace_existing=True, dry_run=False)
        wrong += [] if await seen(trial / "projects") == after else ["it does not come to its end"]
        wrong += strays(trial / "projects")
        lost += [f"call {number}, {moment}: {one}" for one in wrong]
        shutil.rmtree(trial)
    return len(points), lost


@pytest.fixture
async def archive(folder: Path) -> Path:
    """A backup of the folder as it is early in the story."""
    await told(folder)
    target = folder / "one.tar.gz"
    back_up(folder / "earlier" / "projects", target, "1.2.3", executions=True)
    return target


@pytest.fixture
async def empty(folder: Path) -> Path:
    """What lies around a data folder without projects."""
    await FileSystemStorage(folder / "empty" / "projects").start()
    return folder / "empty"


async def test_a_restore_killed_at_some_of_its_calls(
    order: Order, folder: Path, archive: Path, empty: Path, count: Count
) -> None:
    for base in (empty, folder / "later"):
        tried, lost = await kill_restore(order, base, archive, folder / "trial", slice(5, None, 23))
        count("kill points of backup and restore", tried, lost)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("part", range(2))
async def test_a_restore_killed_at_every_call(
    order: Order, folder: Path, archive: Path, empty: Path, count: Count, there: bool, part: int
) -> None:
    base = folder / "later" if there else empty
    count(
        "kill points of backup and restore",
        *await kill_restore(order, base, archive, folder / "trial", slice(part, None, 2)),
    )
