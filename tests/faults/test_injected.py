"""A medium that refuses any of the calls: the caller is told why, nothing is lost, and the store works on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.faults.conftest import Count
from tests.support.faults.check import losses
from tests.support.faults.refusing import REFUSALS, Refusal
from tests.support.faults.story import STEPS, State, Step, lengths, misfit, shown, states
from tests.support.faults.syscalls import intercepted, without_syncing
from tests.support.folders import leftovers

START = "start"
NAMES = (START, *STEPS)
FAULTS = (*REFUSALS, "short", "short, then ENOSPC")


class Stage:
    """The folder as it is before each step of the story."""

    def __init__(self, folder: Path, known: Sequence[State]) -> None:
        self._folder = folder
        self._known = known

    async def prepare(self) -> None:
        """Tell the story once, and keep the folder as it is before each step."""
        with intercepted(self._folder, without_syncing):
            storage = FileSystemStorage(self._folder / "telling" / "projects")
            self._keep("telling", 0, START)
            await storage.start()
            for number, name in enumerate(STEPS):
                self._keep("telling", number, name)
                await STEPS[name](storage)
            await storage.stop()

    def _keep(self, told: str, number: int, name: str) -> None:
        (self._folder / told).mkdir(exist_ok=True)
        shutil.copytree(self._folder / told, self._folder / f"{number} {name}")

    async def refuse(self, name: str, refusal: Refusal) -> tuple[bool, list[str]]:
        """Do a step on a medium that refuses. Gives whether a call was refused, and what is wrong after it."""
        number = 0 if name == START else list(STEPS).index(name)
        folder = self._folder / "trial"
        shutil.copytree(self._folder / f"{number} {name}", folder)
        try:
            storage = FileSystemStorage(folder / "projects")
            step: Step = (lambda storage: storage.start()) if name == START else STEPS[name]
            if name != START:
                await storage.start()
            found = await self._attempt(storage, step, number, refusal, folder, name)
            await storage.stop()
            return refusal.refused is not None, found
        finally:
            shutil.rmtree(folder)

    async def _attempt(
        self, storage: FileSystemStorage, step: Step, number: int, refusal: Refusal, folder: Path, name: str
    ) -> list[str]:
        root = folder / "projects"
        found: list[str] = []
        fault: Exception | None = None
        with intercepted(folder, refusal):
            try:
                await step(storage)
            except Exception as caught:
                fault = caught
        if fault is not None:
            found += _wrong_error(fault, refusal)
        before, after = self._known[number], self._known[number if name == START else number + 1]
        with intercepted(folder, without_syncing):
            if name != START:
                wanted = [after] if fault is None else [before, after] if refusal.lasting else [before]
                seen = await shown(storage)
                misfits = [misfit(seen, state, lengths(state)) for state in wanted]
                found += [] if None in misfits else [f"while it runs on: {misfits}"]
                found += [f"{left} stays" for left in leftovers(root) if not refusal.lasting and ".trash" not in left]
            await storage.stop()
        reached = number if fault is not None or name == START else number + 1
        steps = list(STEPS.values())[: number + 1]
        found += await losses(root, steps, self._known[: number + 2], reached, lengths(self._known[reached]))
        return [f"{name}: {refusal.fault} at call {refusal.number}, {refusal.refused}: {one}" for one in found]


def _wrong_error(fault: Exception, refusal: Refusal) -> Sequence[str]:
    if isinstance(fault, StorageUnavailable):
        cause = fault.cause
    elif isinstance(fault, StoredDataDamaged):
        cause = fault.fault
    else:
        return [f"raised {fault!r}"]
    if refusal.text is None or refusal.text not in cause:
        return [f"raised {fault!r} for {cause}"]
    return []


@pytest.fixture
async def known() -> Sequence[State]:
    return await states(list(STEPS.values()))


@pytest.fixture
async def stage(tmp_path: Path, known: Sequence[State]) -> Stage:
    prepared = Stage(tmp_path, known)
    await prepared.prepare()
    return prepared


async def calls_of(stage: Stage, name: str) -> Sequence[str]:
    counting = Refusal(0, "EIO")
    refused, found = await stage.refuse(name, counting)
    assert not refused
    assert not found
    return counting.calls


def fits(fault: str, call: str) -> bool:
    """Whether a call can meet such a fault."""
    return call == "write" if fault.startswith("short") else True


async def refuse_each(stage: Stage, name: str, faults: Sequence[str], take: slice) -> tuple[int, list[str]]:
    """Refuse the calls that `take` chooses, with each fault; for half of them it lasts until the end of the step."""
    tried, lost = 0, []
    calls = await calls_of(stage, name)
    for place, fault in enumerate(faults):
        for number in range(1, len(calls) + 1)[take]:
            if fits(fault, calls[number - 1]):
                lasting = not fault.startswith("short") and (place + number) % 2 == 0
                refused, found = await stage.refuse(name, Refusal(number, fault, lasting))
                tried += refused
                lost += found
    return tried, lost


async def test_some_refused_calls(stage: Stage, count: Count) -> None:
    tried, lost = 0, []
    for number, name in enumerate(NAMES):
        fault = FAULTS[number % len(FAULTS)]
        more, found = await refuse_each(stage, name, [fault], slice(number % 3, None, 7))
        tried += more
        lost += found
    count("injected faults", tried, lost)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
async def test_every_refused_call(stage: Stage, count: Count, name: str) -> None:
    count("injected faults", *await refuse_each(stage, name, FAULTS, slice(None)))
