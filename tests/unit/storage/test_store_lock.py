"""The store lock: whoever wants it alone gets it, however many share it, and these get on afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.domain.project import Project
from cloutagent_server.storage.filesystem import FileSystemStorage, doctor, locks
from cloutagent_server.storage.filesystem.doctor import Finding, Folder, Severity
from cloutagent_server.storage.filesystem.locks import Locks
from tests.support import builders

DEADLINE = 30
PROMPT = 2.0
_ALONE = """
import sys
from pathlib import Path
from cloutagent_server.storage.filesystem.locks import Locks
with Locks(Path(sys.argv[1])).alone():
    print("alone", flush=True)
    sys.stdin.read()
"""


class Relay:
    """Sharers, each with locks of its own, who keep the store lock until another of them has it as well."""

    def __init__(self, directory: Path, sharers: int) -> None:
        self._directory = directory
        self._sharers = sharers
        self._changed = threading.Condition()
        self._ended = False
        self.inside = self.turns = 0

    def see_turns(self, number: int) -> None:
        """Wait until so many more turns were taken."""
        with self._changed:
            wanted = self.turns + number
            assert self._changed.wait_for(lambda: self.turns >= wanted, DEADLINE)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let them share the lock during the block."""
        with ThreadPoolExecutor(self._sharers) as threads:
            runs = [threads.submit(self._share) for _ in range(self._sharers)]
            try:
                yield
            finally:
                self._ended = True
        for run in runs:
            run.result()

    def _share(self) -> None:
        own = Locks(self._directory)
        while not self._ended:
            with own.sharing(), self._changed:
                self.inside += 1
                self.turns += 1
                self._changed.notify_all()
                # Somebody else comes in every case but that he is held up.
                self._changed.wait(0.1)
                self.inside -= 1


@pytest.fixture
def store_lock(tmp_path: Path) -> Path:
    return tmp_path / "store.lock"


def is_marked(path: Path) -> bool:
    """Whether somebody wants the store lock alone."""
    with path.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may share the store lock now."""
    with monkeypatch.context() as hurried:
        hurried.setattr(locks, "PATIENCE", 0.05)
        with pytest.raises(StorageUnavailable) as caught, Locks(directory).sharing():
            pass
    assert caught.value.cause == f"another process keeps {directory}/store.lock"


def test_one_is_alone_among_sharers_without_a_pause_and_they_get_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", PROMPT)
    relay = Relay(tmp_path, 4)
    with relay.running():
        for _ in range(3):
            relay.see_turns(20)
            with Locks(tmp_path).alone():
                assert relay.inside == 0
        relay.see_turns(20)


def test_several_who_want_to_be_alone_come_one_after_the_other(tmp_path: Path) -> None:
    relay, inside, most = Relay(tmp_path, 2), 0, 0

    def be_alone() -> None:
        nonlocal inside, most
        for _ in range(3):
            with Locks(tmp_path).alone():
                inside += 1
                most = max(most, inside + relay.inside)
                time.sleep(0.002)
                inside -= 1

    with relay.running(), ThreadPoolExecutor(3) as threads:
        for each in [threads.submit(be_alone) for _ in range(3)]:
            each.result(DEADLINE)
    assert most == 1


def test_whoever_waits_for_a_slow_sharer_lets_the_others_take_turns(
    tmp_path: Path, store_lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PRECEDENCE", 0.1)
    had = threading.Event()

    def be_alone() -> None:
        with Locks(tmp_path).alone():
            had.set()

    with ThreadPoolExecutor(1) as threads:
        with Locks(tmp_path).sharing():
            waiting = threads.submit(be_alone)
            wait_until(lambda: is_marked(store_lock))
            for _ in range(3):
                with Locks(tmp_path).sharing():
                    assert not had.is_set()
        waiting.result(DEADLINE)
    assert had.is_set()


@pytest.mark.parametrize("waiters", [1, 4])
def test_beside_a_sharer_who_hangs_writers_wait_for_a_turn_however_many_want_to_be_alone(
    tmp_path: Path, store_lock: Path, monkeypatch: pytest.MonkeyPatch, waiters: int
) -> None:
    monkeypatch.setattr(locks, "_PRECEDENCE", 0.2)
    monkeypatch.setattr(locks, "PATIENCE", 2.0)
    ended = threading.Event()

    def be_alone() -> None:
        with pytest.raises(StorageUnavailable), Locks(tmp_path).alone():
            pass

    def share() -> tuple[int, float]:
        own, turns, longest = Locks(tmp_path), 0, 0.0
        while not ended.is_set():
            begun = time.monotonic()
            with own.sharing():
                turns += 1
            longest = max(longest, time.monotonic() - begun)
        return turns, longest

    with ThreadPoolExecutor(waiters + 1) as threads, Locks(tmp_path).sharing():
        waiting = [threads.submit(be_alone) for _ in range(waiters)]
        wait_until(lambda: is_marked(store_lock))
        sharing = threads.submit(share)
        for each in waiting:
            each.result(DEADLINE)
        ended.set()
        turns, longest = sharing.result(DEADLINE)
    # A turn is 0.2 s, the rest is for a busy machine. Turns that follow each other would be waited for together.
    assert longest < 0.6
    assert turns > 100, "half of the time is theirs"


def test_a_sharer_who_never_ends_is_named_and_the_others_get_on(
    tmp_path: Path, store_lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_lock.open("wb") as file:
        # As a server of before does, that knows of no marks.
        fcntl.flock(file, fcntl.LOCK_SH)
        monkeypatch.setattr(locks, "PATIENCE", 0.05)
        with pytest.raises(StorageUnavailable) as caught, Locks(tmp_path).alone():
            pass
        assert caught.value.cause == f"another process keeps {store_lock}"
        assert not is_marked(store_lock)
        with Locks(tmp_path).sharing():
            pass
    with Locks(tmp_path).alone(), store_lock.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


@pytest.mark.parametrize("while_it", ["waits", "is alone"])
def test_a_process_that_is_killed_holds_up_nobody(
    tmp_path: Path, store_lock: Path, monkeypatch: pytest.MonkeyPatch, while_it: str
) -> None:
    store_lock.touch()
    with Popen([sys.executable, "-c", _ALONE, str(tmp_path)], stdin=PIPE, stdout=PIPE) as process:
        try:
            assert process.stdout is not None
            if while_it == "waits":
                with Locks(tmp_path).sharing():
                    wait_until(lambda: is_marked(store_lock))
                    assert_refused(tmp_path, monkeypatch)
                    process.kill()
                    process.wait(DEADLINE)
                    with Locks(tmp_path).sharing():
                        pass
            else:
                assert process.stdout.readline() == b"alone\n"
                assert_refused(tmp_path, monkeypatch)
        finally:
            process.kill()
    monkeypatch.setattr(locks, "PATIENCE", PROMPT)
    with Locks(tmp_path).sharing():
        pass
    with Locks(tmp_path).alone():
        pass


def test_writers_get_on_between_two_looks_of_the_doctor(
    tmp_path: Path, store_lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_BATCH", 1)
    (tmp_path / ".locks").mkdir()
    shared, begun, looks = threading.Event(), threading.Event(), 0

    def look() -> bool:
        nonlocal looks
        begun.set()
        if not shared.is_set():
            looks += 1
            time.sleep(0.02)
        return True

    def check(_: Folder) -> Iterator[Finding]:
        for number in range(30):
            yield Finding(Severity.WARNING, str(number), "is odd", "look again", look)

    def share() -> None:
        assert begun.wait(DEADLINE)
        with Locks(tmp_path / ".locks").sharing():
            shared.set()

    with ThreadPoolExecutor(1) as threads:
        sharing = threads.submit(share)
        doctor.examine(Folder(tmp_path), [check])
        sharing.result(DEADLINE)
    assert looks < 10


async def test_those_who_wait_for_the_lock_leave_the_others_their_threads(
    storage: FileSystemStorage, root: Path, project: Project
) -> None:
    with (root / ".locks" / "store.lock").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        creating = [
            asyncio.create_task(
                storage.projects.create(builders.project_draft(), builders.credential(digest=f"{number:064x}"))
            )
            for number in range(8)
        ]
        setting = asyncio.create_task(storage.secrets.put_key_check(builders.sealed_secret()))
        assert await asyncio.wait_for(storage.projects.exists(project.id), DEADLINE)
        assert not any(task.done() for task in (*creating, setting))
    assert len(await asyncio.gather(*creating)) == 8
    await setting
