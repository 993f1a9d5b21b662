"""Envoy as a child process: it says where it listens, ends in order, and never outlives who started it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from cloutagent_server.envoy_process import EnvoyFailed, EnvoyProcess
from tests.support.edge_server import EdgeServer

pytestmark = pytest.mark.e2e

DEADLINE = 10.0

OWNER = """
import asyncio, sys
from pathlib import Path
from cloutagent_server.envoy_process import EnvoyProcess

async def main():
    envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", 1, Path(sys.argv[1]))
    await envoy.start()
    print(envoy.port, flush=True)
    await envoy.wait()

asyncio.run(main())
"""


def refuses_connections(port: int) -> bool:
    """Whether nobody listens on this port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_it_ends_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long-" * 30)
    envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", 1, run_dir)
    await envoy.stop()
    await envoy.start()
    assert not refuses_connections(envoy.port)
    assert {path.name: path.stat().st_mode & 0o777 for path in run_dir.iterdir() if path.is_socket()} == {
        "envoy-admin.sock": 0o600
    }
    await envoy.stop()
    assert await envoy.wait() == 0
    assert refuses_connections(envoy.port)
    assert list(run_dir.iterdir()) == []
    await envoy.stop()


async def test_a_taken_port_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", 1, tmp_path / "first")
    await first.start()
    try:
        second = EnvoyProcess("127.0.0.1", first.port, "127.0.0.1", 1, tmp_path / "second")
        with pytest.raises(EnvoyFailed, match="exit code 1"):
            await second.start()
        assert "Address already in use" in capfd.readouterr().err
    finally:
        await first.stop()


async def test_it_cannot_be_waited_for_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        await EnvoyProcess("127.0.0.1", 0, "127.0.0.1", 1, tmp_path).wait()


async def test_stopping_lets_running_requests_end(tmp_path: Path) -> None:
    async with EdgeServer().serve() as server:
        envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", server.port, tmp_path)
        await envoy.start()
        url = f"http://127.0.0.1:{envoy.port}/api/v1/projects/p1/execute"
        async with httpx.AsyncClient(timeout=DEADLINE) as client, asyncio.TaskGroup() as tasks:
            request = tasks.create_task(client.post(url, json={"prompt": "wait"}))
            await asyncio.wait_for(server.waiting.wait(), DEADLINE)
            stop = tasks.create_task(envoy.stop())
            done, _ = await asyncio.wait((stop,), timeout=0.3)
            assert not done
            server.gate.set()
        assert request.result().json()["result"] == "4"
        assert await envoy.wait() == 0


async def test_its_unexpected_end_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "envoy"
    envoy = EnvoyProcess("127.0.0.1", 0, "127.0.0.1", 1, folder)
    await envoy.start()
    (child,) = (each for each in psutil.Process().children() if each.cwd() == str(folder))
    child.send_signal(signal.SIGKILL)
    assert await asyncio.wait_for(envoy.wait(), DEADLINE) == -signal.SIGKILL
    await envoy.stop()
    assert list(folder.iterdir()) == []


async def test_it_dies_with_its_owner_and_knows_none_of_its_secrets(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "ANTHROPIC_API_KEY": "sk-ant-hidden"},
    )
    assert owner.stdout is not None
    port = int(await asyncio.wait_for(owner.stdout.readline(), DEADLINE))
    (child,) = psutil.Process(owner.pid).children()
    assert "ANTHROPIC_API_KEY" not in child.environ()
    assert not refuses_connections(port)
    owner.kill()
    await owner.wait()
    await asyncio.to_thread(psutil.wait_procs, [child], DEADLINE)
    assert not child.is_running()
    assert refuses_connections(port)
