"""A medium that refuses any of the calls: the caller is told why, nothing is lost, and the store works on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.faults.conftest import Count
from tests.support.faults.check import REBUILDS, losses
from tests.support.faults.refusing import FAULTS, SHORT, Refusal
from tests.support.faults.story import STEPS, State, Step, lengths, misfit, shown, states
from tests.support.faults.syscalls import intercepted, unsynced
from tests.support.folders import leftovers

pytestmark = pytest.mark.usefixtures("at_once")

START = "start"
NAMES = (START, *STEPS)
PARTS = 12


class Stage:
    """The folder as it is before each step of the story."""

    def __init__(self, folder: Path, known: Sequence[State]) -> None:
        self._folder = folder
        self._known = known

    async def prepare(self) -> None:
        """Tell the story once, and keep the folder as it is before each step."""
        with unsynced():
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

    async def refuse(self, name: str, refusal: Refusal) -> list[str]:
        """Do a step on a medium that refuses. Gives what is wrong after it."""
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
            return found
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
        with unsynced():
            if name != START:
                wanted = [after] if fault is None else [before, after] if refusal.lasting else [before]
                seen = await shown(storage)
                misfits = [misfit(seen, state, lengths(state)) for state in wanted]
                found += [] if None in misfits else [f"while it runs on: {misfits}"]
                found += [f"{left} stays" for left in leftovers(root) if not refusal.lasting and ".trash" not in left]
            await storage.stop()
        reached = number if fault is not None or name == START else number + 1
        steps = list(STEPS.values())[: number + 1]
        rebuild = REBUILDS[refusal.number % 3]
        least = lengths(self._known[reached])
        found += await losses(root, steps, self._known[: number + 2], reached, least, rebuild=rebuild)
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
async def stage(folder: Path, known: Sequence[State]) -> Stage:
    prepared = Stage(folder, known)
    await prepared.prepare()
    return prepared


async def refuse_each(
    stage: Stage, name: str, faults: Sequence[str], first: int, stride: int
) -> tuple[Counter[str], list[str]]:
    """Refuse every stride-th call of a step, with each fault; for half of them it lasts until the end of the step.

    Gives how many calls were refused with which kind of fault, and what is wrong after it.
    """
    tried, lost, number = Counter[str](), list[str](), first
    while True:
        call = None
        for place, fault in enumerate(faults):
            if fault in SHORT and call != "write":
                continue
            lasting = fault not in SHORT and (place + number) % 2 == 0
            refusal = Refusal(number, fault, lasting)
            found = await stage.refuse(name, refusal)
            lost += found
            if refusal.refused is None:
                return tried, lost
            call = refusal.calls[number - 1]
            tried[refusal.kind] += 1
        number += stride


def note(count: Count, tried: Counter[str], lost: list[str]) -> None:
    for place, (kind, number) in enumerate(tried.items(), 1):
        count(f"injected faults: {kind}", number, lost if place == len(tried) else None)


async def test_the_step_that_meets_no_fault_loses_nothing(stage: Stage) -> None:
    for name in NAMES:
        untouched = Refusal(0, "EIO")
        assert await stage.refuse(name, untouched) == []
        assert untouched.refused is None
        assert len(untouched.calls) > 0


async def test_some_refused_calls(stage: Stage, count: Count) -> None:
    tried, lost = Counter[str](), list[str]()
    for number, name in enumerate(NAMES):
        faults = (FAULTS[number % 4], SHORT[number % 2])
        more, found = await refuse_each(stage, name, faults, number % 3 + 1, 11)
        tried += more
        lost += found
    note(count, tried, lost)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
async def test_every_refused_call(stage: Stage, count: Count, part: int) -> None:
    tried, lost = Counter[str](), list[str]()
    for name in NAMES:
        more, found = await refuse_each(stage, name, FAULTS, part + 1, PARTS)
        tried += more
        lost += found
    note(count, tried, lost)
