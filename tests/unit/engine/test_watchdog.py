"""The watchdog: what ignores the kernel's signal at the server's death is killed soon after, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.launch import KEEP, PARENT
from cloutagent_server.engine.process import RUN_MARKER, install_launcher
from cloutagent_server.engine.watchdog import Watchdog
from tests.support.fake_prices import FakePriceList

PRICES = FakePriceList()

# An agent that does not listen, with a helper of the same manner in a session of its own.
DEAF = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1:
    helper = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, start_new_session=True)
    helper.stdout.readline()
    print(os.getpid(), helper.pid, flush=True)
else:
    print(flush=True)
time.sleep(120)
"""

SERVER = f"""
import os, subprocess, sys, time
from pathlib import Path
from cloutagent_server.engine.watchdog import Watchdog
launcher, root, deaf = sys.argv[1:]
watchdog = Watchdog(Path(root))
watchdog.start()
env = {{{KEEP!r}: {RUN_MARKER!r}, {PARENT!r}: str(os.getpid()), {RUN_MARKER!r}: root + "/a"}}
agent = subprocess.Popen([launcher, "-c", deaf, deaf], env=env, stdout=subprocess.PIPE, text=True)
print(watchdog.pid, agent.stdout.readline(), flush=True)
time.sleep(120)
"""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def marked_sleeper(run: Path) -> Iterator[int]:
    """A process of some run."""
    with subprocess.Popen(["sleep", "120"], env={"PATH": os.environ["PATH"], RUN_MARKER: str(run)}) as process:
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("stopped", [False, True], ids=["deaf", "stopped"])
def test_what_ignores_the_servers_death_is_gone_within_five_seconds(tmp_path: Path, stopped: bool) -> None:
    root = tmp_path / "runs"
    root.mkdir()
    launcher = install_launcher(tmp_path, Path(sys.executable))
    command = [sys.executable, "-c", SERVER, str(launcher), str(root), DEAF]
    with (
        marked_sleeper(tmp_path / "runs-of-another" / "a") as foreign,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        watchdog, agent, helper = map(int, server.stdout.readline().split())
        try:
            assert all(map(alive, (watchdog, agent, helper)))
            if stopped:
                os.kill(agent, signal.SIGSTOP)
            server.kill()
            server.wait()
            wait_until(lambda: not any(map(alive, (agent, helper, watchdog))), 5)
            assert alive(foreign)
        finally:
            for pid in (watchdog, agent, helper):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)


def test_it_lives_with_the_server_knows_no_secret_and_a_stop_leaves_the_runs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", "do not tell")
    watchdog = Watchdog(tmp_path)
    with marked_sleeper(tmp_path / "a") as run:
        watchdog.start()
        pid = watchdog.pid
        assert pid is not None
        process = psutil.Process(pid)
        try:
            wait_until(lambda: "cloutagent_server.engine.watchdog" in process.cmdline(), 20)
            assert "do not tell" not in process.environ().values()
            assert os.getsid(pid) != os.getsid(0)
        finally:
            watchdog.stop()
        assert not alive(pid)
        assert watchdog.pid is None
        assert alive(run)
        watchdog.stop()


@pytest.mark.parametrize("programs", [None, []], ids=["as the machine can", "not isolated"])
async def test_the_engine_has_one_where_agents_are_not_isolated(tmp_path: Path, programs: list[Path] | None) -> None:
    """A sandbox ends with the server by itself."""

    def watchdogs() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if str(tmp_path.resolve()) in child.cmdline()[-1:]]

    gateway = ModelGateway("http://127.0.0.1:1", None, PRICES)
    engine = ClaudeEngine(gateway, PRICES, tmp_path, programs=programs)
    await engine.start()
    try:
        isolated = not engine.refused_tools(["Bash"])
        assert not (isolated and programs == [])
        assert len(watchdogs()) == (0 if isolated else 1)
    finally:
        await engine.stop()
    assert watchdogs() == []
