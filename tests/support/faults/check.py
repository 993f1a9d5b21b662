"""Whether a folder keeps the promises of storage after something happened to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.doctor import Finding, Folder, examine
from tests.support.faults.story import State, Step, lengths, misfit, shown
from tests.support.faults.syscalls import unsynced
from tests.support.folders import leftovers

Rebuild = Literal["first", "last"] | None
ALLOWED: Final = ("leads to no ", "ends with an incomplete line")
REBUILDS: Final[Sequence[Rebuild]] = ("first", "last", None)


async def losses(
    root: Path,
    steps: Sequence[Step],
    known: Sequence[State],
    acknowledged: int,
    least: Mapping[str, int],
    *,
    rebuild: Rebuild = None,
) -> Sequence[str]:
    """What is wrong in a folder in which the first `acknowledged` of `steps` returned and the next one may have begun.

    The storage is started, looked at, its index rebuilt if it is wanted, and the story told to its end.

    Args:
        root: The folder.
        steps: The whole story.
        known: What the model shows before the first step and after each.
        acknowledged: How many steps returned.
        least: How many events each log holds at least.
        rebuild: Whether the index is rebuilt "first", before the story goes on, or "last".
    """
    with unsynced():
        return await _losses(root, steps, known, acknowledged, least, rebuild)


def examined(root: Path) -> Sequence[Finding]:
    """What the doctor finds in a folder, the keys of whose secrets are not there to be asked.

    Entries of the index that lead nowhere are left out: taking one away need not be durable, and whoever follows one
    looks at the record. So is half a line at the end of a log: nobody reads it, and the next append cuts it off.
    """
    found = examine(Folder(root, lambda _: None))
    return [finding for finding in found if not any(text in finding.fault for text in ALLOWED)]


async def _losses(
    root: Path,
    steps: Sequence[Step],
    known: Sequence[State],
    acknowledged: int,
    least: Mapping[str, int],
    rebuild: Rebuild,
) -> Sequence[str]:
    found: list[str] = []
    storage = FileSystemStorage(root)
    try:
        await storage.start()
        seen = await shown(storage)
        reached, faults = _place(seen, known, acknowledged, least)
        found += faults
        found += [f"{name} stays" for name in leftovers(root)]
        found += [f"the doctor finds {finding.path}: {finding.fault}" for finding in examined(root)]
        if rebuild == "first":
            storage, faults = await _rebuilt(storage, root, seen)
            found += faults
        for step in steps[reached:]:
            await step(storage)
        end = await shown(storage)
        missing = misfit(end, known[-1], lengths(known[-1]))
        found += [f"the story does not come to its end: {missing}"] if missing else []
        if rebuild == "last":
            storage, faults = await _rebuilt(storage, root, end)
            found += faults
        found += [f"{name} stays at the end" for name in leftovers(root)]
    except Exception as fault:
        found.append(f"{type(fault).__name__}: {fault} {getattr(fault, 'cause', '')}")
    finally:
        await storage.stop()
    return found


def _place(
    seen: State, known: Sequence[State], acknowledged: int, least: Mapping[str, int]
) -> tuple[int, Sequence[str]]:
    """After how many steps the storage stands, and what is wrong if it stands nowhere."""
    faults = []
    for reached in (acknowledged, acknowledged + 1):
        if reached < len(known):
            state = known[reached]
            fault = misfit(seen, state, least)
            if fault is None:
                in_part = seen.records == known[acknowledged].records and misfit(seen, state, lengths(state))
                return acknowledged if in_part else reached, ()
            faults.append(f"not as after {reached} steps: {fault}")
    return acknowledged, faults


async def _rebuilt(storage: FileSystemStorage, root: Path, before: State) -> tuple[FileSystemStorage, Sequence[str]]:
    await storage.stop()
    shutil.rmtree(root / ".index")
    again = FileSystemStorage(root)
    await again.start()
    fault = misfit(await shown(again), before, lengths(before))
    return again, [f"other answers with a new index: {fault}"] if fault else []
