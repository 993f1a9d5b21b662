"""One of several servers on a folder. Started as `python -m tests.support.faults.worker ROOT TASK ARGUMENTS…`.

It prints "ready", waits for a line, does its task, and prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from cloutagent_server.domain import api_key
from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.domain.errors import RevisionConflict, SecretVersionConflict
from cloutagent_server.domain.project import KeyCredential, ProjectChanges
from cloutagent_server.engine.base import CallEnd, CallRefused
from cloutagent_server.service.budgets import RunBudget, Turns
from cloutagent_server.service.cost_tracker import CostTracker
from cloutagent_server.service.key_rotation import rotate_encryption_key
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage, locks
from tests.support import builders
from tests.support.fake_engine import planned
from tests.support.fake_prices import MODEL, FakePriceList
from tests.support.secret_changes import put_secret

Task = Callable[..., Awaitable[object]]

COUNTER: Final = "COUNTER"
SPENT_INPUT: Final = 10
KEYS_KEPT: Final = 3
KEYS: Final = ("01" * 32, "02" * 32)
KEYRINGS: Final = (Keyring(KEYS[0], KEYS[1:]), Keyring(KEYS[1], KEYS[:1]))


async def _count(storage: FileSystemStorage, project_id: str, seconds: str) -> object:
    """Add one to the number in a project's description, again and again. Gives how often, and how many conflicts."""
    done = conflicts = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        project = await storage.projects.read(project_id)
        assert project is not None
        changes = ProjectChanges(description=str(int(project.description or "0") + 1))
        try:
            await storage.projects.update(project_id, changes, project.revision)
            done += 1
        except RevisionConflict:
            conflicts += 1
    return [done, conflicts]


async def _put(storage: FileSystemStorage, project_id: str, prefix: str, number: str) -> object:
    """Set secrets, each under a name of its own."""
    for each in range(int(number)):
        await put_secret(storage, project_id, f"{prefix}_{each}", builders.sealed_secret())
    return int(number)


async def _append(storage: FileSystemStorage, execution_id: str, seconds: str) -> object:
    """Append events against competition. Gives the sequence numbers that were taken here, and how many conflicts."""
    taken: list[int] = []
    conflicts = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        execution = await storage.executions.read(execution_id)
        assert execution is not None
        after = execution.last_sequence
        try:
            await storage.executions.append(builders.texts(execution_id, 2, after))
            taken += [after + 1, after + 2]
        except RevisionConflict:
            conflicts += 1
    return [taken, conflicts]


async def _read(storage: FileSystemStorage, project_id: str, execution_id: str, seconds: str) -> object:
    """Read everything that the others write, strictly. Gives how often."""
    times = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        assert await storage.projects.read(project_id) is not None
        await storage.secrets.read(project_id)
        execution = await storage.executions.read(execution_id)
        assert execution is not None
        events = await storage.executions.read_events(execution_id, max(0, execution.last_sequence - 50), 50)
        numbers = [event.sequence for event in events]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        times += 1
    return times


async def _hold(storage: FileSystemStorage, root: str, log: str) -> object:
    """Take every lock of the folder and of a log, with half an append in it, and keep them until killed."""
    for path in sorted((Path(root) / ".locks").iterdir()):
        fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)
    writer = os.open(log, os.O_WRONLY | os.O_APPEND)
    fcntl.flock(writer, fcntl.LOCK_EX)
    with locks.uncommitted(writer, Path(log).stat().st_size, Path(log)):
        os.write(writer, b'{"executionId":"not committed"}\n')
        os.write(sys.stdout.fileno(), b"held\n")
        await asyncio.Event().wait()
    return None


async def _count_secret(storage: FileSystemStorage, project_id: str, which: str, seconds: str) -> object:
    """Add one to the number in a secret, again and again. Gives how often, and how many conflicts."""
    manager = SecretManager(storage.secrets, KEYRINGS[int(which)], adopted_only=True)
    done = conflicts = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        metadata = await manager.get_metadata(project_id, COUNTER)
        version = 0 if metadata is None else metadata.version
        try:
            await manager.set_secret(project_id, COUNTER, str(version + 1), version)
            done += 1
        except SecretVersionConflict:
            conflicts += 1
    return [done, conflicts]


async def _read_secret(storage: FileSystemStorage, project_id: str, which: str, seconds: str) -> object:
    """Read a secret that others count up and seal anew, strictly. Gives how often."""
    manager = SecretManager(storage.secrets, KEYRINGS[int(which)], adopted_only=True)
    times = last = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        number = int(await manager.get_secret(project_id, COUNTER) or "0")
        assert number >= last
        last = number
        times += 1
    return times


async def _rotate_encryption(storage: FileSystemStorage, which: str, seconds: str) -> object:
    """Seal all secrets with one of the keys, again and again while another does so with the other. Gives how often."""
    times = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        done = await rotate_encryption_key(storage.secrets, KEYRINGS[int(which)], True, lambda _: None)
        assert not done.faults
        times += 1
    return times


async def _change_keys(storage: FileSystemStorage, project_id: str, seconds: str) -> object:
    """Add a key, rotate it and revoke it, again and again. Gives the digests of those that are left, and how often."""
    times = 0
    kept: list[str] = []
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        added, rotated = builders.api_key(), builders.credential()
        await _change(storage, project_id, lambda keys, key=added: api_key.added(keys, key, builders.at(0)))
        assert await _works(storage, added.credential)
        new_id = builders.api_key().id
        await _change(
            storage,
            project_id,
            lambda keys, old=added.id, new=new_id, credential=rotated: api_key.rotated(
                keys, old, new, credential, timedelta(), builders.at(0)
            ),
        )
        assert await _works(storage, rotated)
        assert not await _works(storage, added.credential)
        times += 2
        if len(kept) < KEYS_KEPT:
            kept.append(rotated.digest)
            continue
        await _change(storage, project_id, lambda keys, key=new_id: api_key.revoked(keys, key, False, builders.at(0)))
        assert not await _works(storage, rotated)
        times += 1
    return [kept, times]


async def _change(storage: FileSystemStorage, project_id: str, change: Callable[..., ApiKeys]) -> None:
    await storage.projects.change_keys(project_id, change)


async def _works(storage: FileSystemStorage, credential: KeyCredential) -> bool:
    return await storage.projects.find_key(credential.digest) is not None


async def _spend(storage: FileSystemStorage, project_id: str, tokens: str, seed: str) -> object:
    """Make calls of one execution under a budget until nothing is left of it. Gives what each of them used.

    It is a server's part of a run: some calls are under way at a time, and each is settled with less than it might use.
    """
    project = await storage.projects.read(project_id)
    assert project is not None
    execution = await storage.executions.create(
        builders.execution(project_id, agent=project.agent, limits=project.limits)
    )
    budget = RunBudget(execution, storage, FakePriceList(), CostTracker(FakePriceList()), Turns())
    chance = random.Random(int(seed))
    used: list[int] = []

    async def call_on(name: str) -> None:
        for number in itertools.count():
            call_id = f"{execution.id}/{name}/{number}"
            wanted = chance.randint(1, int(tokens))
            try:
                allowed = await budget.reserve(planned(MODEL, wanted, input_tokens=SPENT_INPUT, call_id=call_id))
            except CallRefused:
                await budget.settle(call_id, CallEnd.FREE, None)
                return
            await asyncio.sleep(chance.choice((0.0, 0.001, 0.01)))
            end = chance.choice((CallEnd.TOLD, CallEnd.TOLD, CallEnd.CUT, CallEnd.FREE))
            told = TokenUsage(SPENT_INPUT, chance.randint(1, allowed), MODEL)
            await budget.settle(call_id, end, told)
            written = {CallEnd.TOLD: told.completion_tokens, CallEnd.CUT: allowed}
            used.append(SPENT_INPUT + written[end] if end in written else 0)

    await asyncio.gather(*(call_on(name) for name in "abc"))
    return used


TASKS: dict[str, Task] = {
    "spend": _spend,
    "count secret": _count_secret,
    "read secret": _read_secret,
    "rotate encryption": _rotate_encryption,
    "change keys": _change_keys,
    "count": _count,
    "put": _put,
    "append": _append,
    "read": _read,
    "hold": _hold,
}


async def _work(root: str, task: str, *arguments: str) -> None:
    storage = FileSystemStorage(Path(root))
    await storage.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(await TASKS[task](storage, *arguments)), flush=True)
    await storage.stop()


if __name__ == "__main__":
    asyncio.run(_work(*sys.argv[1:]))
