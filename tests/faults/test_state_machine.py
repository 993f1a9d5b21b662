"""Random sequences of operations with crashes: the store always shows what the model shows."""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.events import Payload
from cloutagent_server.domain.project import ProjectChanges
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.memory import MemoryStorage
from tests.faults.conftest import Count
from tests.support import builders
from tests.support.faults import story
from tests.support.faults.at_once import work_at_once
from tests.support.faults.story import EXECUTIONS, LABELS, Step, lengths, misfit, shown
from tests.support.faults.syscalls import Call, intercepted, unsynced, without_syncing
from tests.support.folders import leftovers
from tests.support.secret_changes import remove_secret

labels = st.sampled_from(LABELS)
execution_ids = st.sampled_from(EXECUTIONS)
names = st.sampled_from(["TOKEN", "OTHER"])
words = st.text(max_size=8)
payloads = st.one_of(
    st.builds(builders.queued, st.integers(0, 3)),
    st.builds(builders.started, words),
    st.builds(builders.text_delta, words),
    st.builds(builders.message, words),
    st.builds(builders.completed, result=words),
    st.just(builders.cancelled()),
)


class PowerOff(BaseException):
    """The simulated process has died: nothing after this reaches the folder."""


class Crash:
    """A handler under which the process dies at the call of this number: neither it nor any later one is done."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._guard = threading.Lock()
        self.happened = False

    def __call__(self, call: Call) -> Any:
        if not call.changes:
            return call.complete()
        with self._guard:
            self._left -= 1
            if self._left > 0:
                return without_syncing(call)
            if not self.happened and call.name == "write":
                call.write_half()
            self.happened = True
            raise PowerOff


class StoreAgainstModel(RuleBasedStateMachine):
    """The filesystem store and the model, which is the memory store."""

    steps_taken = 0

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())
        self._runner = asyncio.Runner()
        work_at_once(self._runner.get_loop())
        self._model = MemoryStorage()
        self._disk = FileSystemStorage(self._folder / "projects")
        self._crash_at = 0

    @initialize()
    def start(self) -> None:
        self._run(self._disk.start())

    @rule(number=st.integers(1, 40))
    def crash_during_the_next_step(self, number: int) -> None:
        self._crash_at = number

    @rule()
    def restart(self) -> None:
        self._reopen()

    @rule()
    def lose_the_index(self) -> None:
        self._run(self._disk.stop())
        shutil.rmtree(self._folder / "projects" / ".index")
        self._reopen()

    @rule(label=labels)
    def create_project(self, label: str) -> None:
        self._do(story.create(label))

    @rule(label=labels, description=words, expected=st.none() | st.integers(1, 3))
    def update_project(self, label: str, description: str, expected: int | None) -> None:
        changes = ProjectChanges(description=description)
        self._do(story.with_project(label, lambda storage, found: storage.projects.update(found, changes, expected)))

    @rule(label=labels)
    def delete_project(self, label: str) -> None:
        self._do(story.with_project(label, lambda storage, found: storage.projects.delete(found)))

    @rule(label=labels, name=names, seed=words)
    def put_secret(self, label: str, name: str, seed: str) -> None:
        self._do(story.put(label, name, seed.encode().hex()))

    @rule(label=labels, name=names)
    def remove_secret(self, label: str, name: str) -> None:
        self._do(story.with_project(label, lambda storage, found: remove_secret(storage, found, name)))

    @rule(seed=words)
    def put_key_check(self, seed: str) -> None:
        self._do(lambda storage: storage.secrets.put_key_check(story.sealed(seed.encode().hex())))

    @rule(label=labels, execution_id=execution_ids, key=st.none() | st.sampled_from(["order", "other"]))
    def create_execution(self, label: str, execution_id: str, key: str | None) -> None:
        self._do(
            story.with_project(
                label,
                lambda storage, found: storage.executions.create(story.new_execution(execution_id, found, key)),
            )
        )

    @rule(
        execution_id=execution_ids, chosen=st.lists(payloads, min_size=1, max_size=4), skew=st.sampled_from([0, 0, 1])
    )
    def append(self, execution_id: str, chosen: Sequence[Payload], skew: int) -> None:
        async def step(storage: Storage) -> object:
            execution = await storage.executions.read(execution_id)
            after = skew + (0 if execution is None else execution.last_sequence)
            return (await storage.executions.append(builders.events(execution_id, chosen, after))).status

        self._do(step)

    @rule(execution_id=execution_ids)
    def delete_execution(self, execution_id: str) -> None:
        self._do(lambda storage: storage.executions.delete(execution_id))

    @precondition(lambda self: self._crash_at == 0)
    @invariant()
    def same(self) -> None:
        wanted = self._run(shown(self._model))
        assert misfit(self._run(shown(self._disk)), wanted, lengths(wanted)) is None
        assert leftovers(self._folder / "projects") == []

    def teardown(self) -> None:
        self._run(self._disk.stop())
        self._runner.close()
        shutil.rmtree(self._folder)

    def _run(self, coroutine: Any) -> Any:
        with unsynced():
            return self._runner.run(coroutine)

    def _reopen(self) -> None:
        self._run(self._disk.stop())
        self._disk = FileSystemStorage(self._folder / "projects")
        self._run(self._disk.start())

    def _do(self, step: Step) -> None:
        """Do a step on both; a crash may come in the middle of it on disk."""
        StoreAgainstModel.steps_taken += 1
        crash_at, self._crash_at = self._crash_at, 0
        if crash_at == 0:
            assert self._run(_outcome(step, self._disk)) == self._run(_outcome(step, self._model))
            return
        before = copy.deepcopy(self._model)
        self._run(_outcome(step, self._model))
        crash = Crash(crash_at)
        with intercepted(self._folder, crash):
            try:
                self._runner.run(_outcome(step, self._disk))
            except PowerOff:
                assert crash.happened
        self._reopen()
        self._settle(before, crash)

    def _settle(self, before: MemoryStorage, crash: Crash) -> None:
        """Choose the model that the crash made true: the one before the step, or the one after it, logs in part."""
        seen = self._run(shown(self._disk))
        earlier, later = self._run(shown(before)), self._run(shown(self._model))
        if misfit(seen, later, lengths(later)) is None:
            return
        assert crash.happened, misfit(seen, later, lengths(later))
        if misfit(seen, earlier, lengths(earlier)) is None:
            self._model = before
            return
        assert misfit(seen, later, lengths(earlier)) is None
        for execution_id, log in seen.logs.items():
            self._run(_append_up_to(before, execution_id, later, len(log)))
        self._model = before


async def _outcome(step: Step, storage: Storage) -> object:
    try:
        result = await step(storage)
    except (CloutAgentError, ValueError) as fault:
        return type(fault)
    return result if isinstance(result, (bool, str)) else None


async def _append_up_to(storage: Storage, execution_id: str, state: story.State, length: int) -> None:
    execution = await storage.executions.read(execution_id)
    assert execution is not None
    lines = state.logs[execution_id][execution.last_sequence : length]
    if lines:
        await storage.executions.append([story.decoded(line) for line in lines])


def run(examples: int, steps: int) -> int:
    """Run the machine. Gives how many operations were tried."""
    StoreAgainstModel.steps_taken = 0
    # Steps wait for the medium, which on a busy machine is slow; that says nothing about what is generated.
    slow = [HealthCheck.too_slow]
    run_state_machine_as_test(
        StoreAgainstModel,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, suppress_health_check=slow
        ),
    )
    return StoreAgainstModel.steps_taken


def test_random_sequences_with_crashes(count: Count) -> None:
    count("random steps", run(examples=6, steps=25))


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(4))
def test_random_sequences_with_crashes_at_length(count: Count, part: int) -> None:
    count("random steps", run(examples=40, steps=50))
