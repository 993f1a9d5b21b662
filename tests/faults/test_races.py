"""Eight servers on one folder: nothing is lost, nothing torn, nobody waits for ever, and readers do not wait at all."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.ledger import LedgerTotals
from cloutagent_server.domain.project import Budget, BudgetLimit, Limits, ProjectChanges
from cloutagent_server.service.key_rotation import rotate_encryption_key
from cloutagent_server.service.keyring import Keyring
from cloutagent_server.service.orphaned_calls import usage_after_crash
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.faults.conftest import DEADLINE, REPOSITORY, Count
from tests.support import builders
from tests.support.fake_prices import FakePriceList
from tests.support.faults.check import examined
from tests.support.faults.syscalls import Call, intercepted
from tests.support.faults.worker import COUNTER, KEYRINGS, KEYS, KEYS_KEPT, SPENT_INPUT
from tests.support.secret_changes import put_secret, secrets_of

PROMPT = 2.0


class Worker:
    """A process of its own on the folder."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.wait_for(self._process.stdout.readline(), DEADLINE)).decode().strip()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def result(self) -> Any:
        """All that it prints until it ends: a line of any length, where `line` takes 64 KiB."""
        assert self._process.stdout is not None
        text = await asyncio.wait_for(self._process.stdout.read(), DEADLINE)
        assert await asyncio.wait_for(self._process.wait(), DEADLINE) == 0
        return json.loads(text)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


Start = Callable[..., Awaitable[Worker]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "projects"


@pytest.fixture
async def storage(root: Path) -> AsyncIterator[FileSystemStorage]:
    opened = FileSystemStorage(root)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def start(root: Path) -> AsyncIterator[Start]:
    workers = []

    async def start_one(*arguments: str) -> Worker:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.support.faults.worker", str(root), *arguments),
            cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        workers.append(Worker(process))
        assert await workers[-1].line() == "ready"
        return workers[-1]

    yield start_one
    for worker in workers:
        await worker.kill()


async def race(storage: FileSystemStorage, start: Start, seconds: float, secrets: int) -> tuple[int, list[str]]:
    """Let eight processes write and read the same records. Gives how many writes were tried, and what went wrong."""
    project = await storage.projects.create(builders.project_draft(description="0"), builders.credential())
    execution = await storage.executions.create(builders.execution(project.id))
    counters = [await start("count", project.id, str(seconds)) for _ in range(3)]
    putters = [await start("put", project.id, f"WRITER_{each}", str(secrets)) for each in range(2)]
    appenders = [await start("append", execution.id, str(seconds)) for _ in range(2)]
    victim = await start("count", project.id, str(10 * seconds))
    for worker in (*counters, *putters, *appenders, victim):
        worker.go()
    began = time.monotonic()
    reads = 0
    while time.monotonic() - began < seconds / 2:
        reads += 1
        seen = await storage.executions.read(execution.id)
        assert seen is not None
        events = await storage.executions.read_events(execution.id, 0, 10_000)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert await storage.projects.read(project.id) is not None
    killed_at = await storage.projects.read(project.id)
    await victim.kill()
    counted = [await worker.result() for worker in counters]
    put = [await worker.result() for worker in putters]
    appended = [await worker.result() for worker in appenders]

    lost = []
    last = await storage.projects.read(project.id)
    assert killed_at is not None
    assert last is not None
    total = int(last.description or "")
    if total != last.revision - 1:
        lost.append(f"{total} increments in {last.revision - 1} updates")
    survivors = sum(done for done, _ in counted)
    if total < survivors or sum(conflicts for _, conflicts in counted) == 0:
        lost.append(f"{survivors} increments were acknowledged, {total} are there, conflicts {counted}")
    names = set(await secrets_of(storage, project.id))
    if names != {f"WRITER_{each}_{number}" for each in range(2) for number in range(secrets)}:
        lost.append(f"of {sum(put)} secrets {len(names)} are there")
    taken = sorted(number for numbers, _ in appended for number in numbers)
    events = await storage.executions.read_events(execution.id, 0, 100_000)
    while more := await storage.executions.read_events(execution.id, len(events), 100_000):
        events = (*events, *more)
    if taken != [event.sequence for event in events] or taken != list(range(1, len(taken) + 1)):
        lost.append(f"{len(taken)} events were acknowledged, {len(events)} are there")
    return total + sum(put) + len(taken) + reads, lost


async def test_eight_processes_on_one_folder(storage: FileSystemStorage, start: Start, count: Count) -> None:
    count("race rounds", 1)
    count("racing operations", *await race(storage, start, seconds=1.0, secrets=20))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(3))
async def test_eight_processes_on_one_folder_for_long(
    storage: FileSystemStorage, start: Start, count: Count, run: int
) -> None:
    count("race rounds", 1)
    count("racing operations", *await race(storage, start, seconds=10.0, secrets=200))


async def race_secrets_and_keys(
    storage: FileSystemStorage, start: Start, seconds: float, root: Path
) -> tuple[int, list[str]]:
    """Let eight processes set, read and seal anew secrets and change keys; kill two. Gives how many writes, and faults.

    Two seal the secrets with one key and with another against each other, and each of the others has one of them as
    its own, so all that was sealed changes all the time.
    """
    credential = builders.credential()
    project = await storage.projects.create(builders.project_draft(), credential)
    manager = SecretManager(storage.secrets, KEYRINGS[0], adopted_only=True)
    await manager.check_key()
    await manager.set_secret(project.id, "CONSTANT", "constant")
    counters = [await start("count secret", project.id, str(which), str(seconds)) for which in range(2)]
    sealers = [await start("rotate encryption", "0", str(seconds))]
    changers = [await start("change keys", project.id, str(seconds)) for _ in range(2)]
    readers = [await start("read secret", project.id, "1", str(seconds))]
    victims = [
        await start("rotate encryption", "1", str(10 * seconds)),
        await start("change keys", project.id, str(10 * seconds)),
    ]
    for worker in (*counters, *sealers, *changers, *readers, *victims):
        worker.go()
    began = time.monotonic()
    reads = 0
    while time.monotonic() - began < seconds / 2:
        reads += 1
        assert await manager.get_secret(project.id, "CONSTANT") == "constant"
        assert await storage.projects.find_key(credential.digest) is not None
    for victim in victims:
        await victim.kill()
    counted = [await worker.result() for worker in counters]
    sealed = [await worker.result() for worker in sealers]
    changed = [await worker.result() for worker in changers]
    await asyncio.gather(*(worker.result() for worker in readers))

    lost = []
    total = int(await manager.get_secret(project.id, COUNTER) or "0")
    metadata = await manager.get_metadata(project.id, COUNTER)
    if metadata is None or total != metadata.version or total != sum(done for done, _ in counted):
        lost.append(f"{counted} were acknowledged, the value is {total}, the version {metadata}")
    digests = {key.credential.digest for key in await storage.projects.read_keys(project.id)}
    for digest in (credential.digest, *(digest for kept, _ in changed for digest in kept)):
        if digest not in digests or await storage.projects.find_key(digest) is None:
            lost.append(f"the key {digest} is lost")
    # The killed one left what it had kept, and one more at most.
    if len(digests) > 1 + 3 * KEYS_KEPT + 1:
        lost.append(f"there are {len(digests)} keys")
    again = FileSystemStorage(root)
    await again.start()
    await rotate_encryption_key(again.secrets, KEYRINGS[1], True, lambda _: None)
    alone = SecretManager(again.secrets, Keyring(KEYS[1]), adopted_only=True)
    await alone.check_key()
    if (await alone.get_secret(project.id, COUNTER), await alone.get_secret(project.id, "CONSTANT")) != (
        str(total),
        "constant",
    ):
        lost.append("the secrets do not open with the one key that is left")
    await again.stop()
    lost += [f"the doctor finds {finding.path}: {finding.fault}" for finding in examined(root)]
    return total + sum(sealed) + sum(times for _, times in changed) + reads, lost


async def test_eight_processes_change_secrets_and_keys(
    storage: FileSystemStorage, start: Start, root: Path, count: Count
) -> None:
    count("race rounds", 1)
    count("racing operations", *await race_secrets_and_keys(storage, start, 1.0, root))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(3))
async def test_eight_processes_change_secrets_and_keys_for_long(
    storage: FileSystemStorage, start: Start, root: Path, count: Count, run: int
) -> None:
    count("race rounds", 1)
    count("racing operations", *await race_secrets_and_keys(storage, start, 10.0, root))


async def race_for_a_budget(storage: FileSystemStorage, start: Start, tokens: int, seed: int) -> tuple[int, list[str]]:
    """Let four processes spend one project's budget to its end, and a fifth that is killed. Gives how many calls."""
    draft = builders.project_draft(limits=Limits(), budget=Budget(total=BudgetLimit(tokens, None)))
    project = await storage.projects.create(draft, builders.credential())
    most = max(20, tokens // 40)
    spenders = [await start("spend", project.id, str(most), str(10 * seed + each)) for each in range(4)]
    victim = await start("spend", project.id, str(most), str(10 * seed + 4))
    lost: list[str] = []

    async def totals() -> LedgerTotals:
        found = await storage.ledger.totals(project.id, timestamps.now())
        if found.total.all.tokens > tokens:
            lost.append(f"{found.total.all.tokens} tokens are used or reserved, of {tokens}")
        return found

    async def until_used(least: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while (await totals()).total.settled.tokens < least:  # noqa: ASYNC110 - others use it
                await asyncio.sleep(0.01)

    victim.go()
    await until_used(1)
    for worker in spenders:
        worker.go()
    await until_used(tokens // 3)
    await victim.kill()
    # As a living server does it: what was under way counts in full, and what waits for that room learns of it.
    (left,) = await storage.executions.list_abandoned()
    dead = await storage.executions.claim(left)
    assert dead is not None
    used_by_the_dead = (await usage_after_crash(storage.ledger, dead, FakePriceList())).total_tokens
    spent = [await worker.result() for worker in spenders]

    end = await totals()
    calls = [call for each in spent for call in each]
    billed = sum(calls)
    if end.open or end.total.settled.tokens > tokens:
        lost.append(f"{end.total} at the end, and {len(end.open)} calls are open")
    if tokens - end.total.settled.tokens > SPENT_INPUT:
        lost.append(f"{tokens - end.total.settled.tokens} tokens are left that nobody may use")
    if billed + used_by_the_dead != end.total.settled.tokens:
        lost.append(f"{billed} and {used_by_the_dead} tokens were billed, {end.total.settled.tokens} are counted")
    if sum(map(bool, spent)) < 2 or not used_by_the_dead:
        lost.append(f"no race: {[len(each) for each in spent]} calls")
    return len(calls), lost


async def test_processes_spend_one_budget(storage: FileSystemStorage, start: Start, count: Count) -> None:
    count("race rounds", 1)
    count("racing operations", *await race_for_a_budget(storage, start, 3_000, 1))


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2, 7))
async def test_processes_spend_one_budget_for_long(
    storage: FileSystemStorage, start: Start, count: Count, seed: int
) -> None:
    count("race rounds", 1)
    count("racing operations", *await race_for_a_budget(storage, start, 40_000, seed))


async def test_readers_wait_for_nobody_and_writers_for_no_dead(
    storage: FileSystemStorage, root: Path, start: Start, count: Count
) -> None:
    credentials = [builders.credential() for _ in range(12)]
    projects = [await storage.projects.create(builders.project_draft(), one) for one in credentials]
    execution = await storage.executions.create(builders.execution(projects[0].id))
    before = await storage.executions.append(builders.texts(execution.id, 3))
    for project in projects:
        await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    log = root / projects[0].id / "executions" / execution.id / "events.jsonl"
    fresh = FileSystemStorage(root)
    holder = await start("hold", str(root), str(log))
    holder.go()
    assert await holder.line() == "held"

    changes = ProjectChanges(name="new")
    updating = [asyncio.create_task(storage.projects.update(project.id, changes)) for project in projects]
    appending = asyncio.create_task(storage.executions.append(builders.texts(execution.id, 1, 3)))
    slowest = 0.0
    for reader in (storage, fresh):
        for project, credential in zip(projects, credentials, strict=True):
            began = time.monotonic()
            assert await reader.projects.read(project.id) == project
            assert await reader.projects.find_key(credential.digest) is not None
            assert set(await secrets_of(reader, project.id)) == {"TOKEN"}
            assert await reader.executions.read(execution.id) == before
            assert len(await reader.executions.read_events(execution.id, 0, 10)) == 3
            assert len((await reader.projects.list(20)).items) == len(projects)
            assert (await reader.executions.list(projects[0].id, 20)).items == (before,)
            assert await reader.executions.list_unfinished() == (before,)
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < PROMPT
    assert not any(task.done() for task in (*updating, appending))

    with log.open("rb+") as file:
        file.truncate(file.seek(0, 2) - len(b'{"executionId":"not committed"}\n'))
    await holder.kill()
    async with asyncio.timeout(DEADLINE):
        assert [(await task).revision for task in updating] == [2] * len(projects)
        assert (await appending).last_sequence == 4
    await fresh.stop()
    count("race rounds", 1)
    count("racing operations", len(projects) * 2)


async def test_a_reader_that_meets_changes_of_secrets_looks_again_and_waits_for_none(
    storage: FileSystemStorage, root: Path
) -> None:
    project = await storage.projects.create(builders.project_draft(), builders.credential())
    await put_secret(storage, project.id, "TOKEN", builders.sealed_secret())
    writer = FileSystemStorage(root)
    values = [builders.sealed_secret() for _ in range(10)]
    rest, locks = list(values), list[str]()
    changing = False

    def change_between(call: Call) -> object:
        nonlocal changing
        if not changing:
            if ".locks" in call.path:
                locks.append(call.path)
            if call.name == "read" and call.path.endswith("secrets.enc") and rest:
                changing = True
                asyncio.run(put_secret(writer, project.id, "TOKEN", rest.pop(0)))
                changing = False
        return call.complete()

    with intercepted(root, change_between):
        assert await secrets_of(storage, project.id) == {"TOKEN": values[-1]}
    assert locks == []
