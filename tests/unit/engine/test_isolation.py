"""The parts of the sandbox: what its command leaves out, who gets through the door, and what counts as too much."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.engine.isolation import enter
from cloutagent_server.engine.isolation.bubblewrap import INSIDE, Bubblewrap, NotIsolated, find
from cloutagent_server.engine.isolation.door import Door
from cloutagent_server.engine.isolation.enter import TAKEN
from cloutagent_server.engine.limits import AgentLimits, LimitWatch
from cloutagent_server.engine.process import RUN_MARKER
from cloutagent_server.engine.workspace import Workspace


def test_the_command_names_no_secret_and_covers_what_is_hidden(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path, new_id(), INSIDE)
    hidden = Path(sys.base_prefix).resolve() / "lib"
    sandbox = Bubblewrap(Path("/bin/bwrap"), (hidden, tmp_path), tmp_path)
    command = sandbox.command(workspace, Path("/cli"), AgentLimits())
    place = command.index(str(hidden))
    assert command[place - 1] == "--tmpfs"
    # What does not lie within a folder that is bound is not there anyway.
    assert str(tmp_path) not in command
    assert command[command.index("--remount-ro") + 1] == "/proc"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1", "setting up uid map: Permission denied"),
        ("exit 3", "it ended with exit code 3"),
    ],
)
def test_why_a_machine_cannot_isolate_is_told(tmp_path: Path, script: str, reason: str) -> None:
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    missing = tmp_path / "missing"
    with pytest.raises(NotIsolated) as caught:
        find(tmp_path, [], [missing, program])
    assert f"{missing}: it does not run (FileNotFoundError)" in str(caught.value)
    assert reason in str(caught.value)
    with pytest.raises(NotIsolated, match="bubblewrap is not installed"):
        find(tmp_path, [], [])


def test_another_system_cannot_isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotIsolated, match="only Linux"):
        find(tmp_path, [])


def test_a_sandbox_that_does_not_hold_is_found_out(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    # It makes no sandbox at all, and starts what it should have isolated.
    inside = f"{sys.executable} -I -S {Path(enter.__file__).resolve()}"
    program.write_text(f'#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift 5\nexec {inside} "$@"\n')
    program.chmod(0o700)
    with pytest.raises(NotIsolated, match="it sees other processes"):
        find(tmp_path, [], [program])


class Gateway:
    """Remembers the listeners that it serves."""

    def __init__(self) -> None:
        self.served: list[Listener] = []

    async def serve(self, listener: socket.socket) -> Listener:
        self.served.append(Listener(listener))
        return self.served[-1]


class Listener:
    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener

    async def stop(self) -> None:
        self.listener.close()


@contextlib.asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Door, Gateway]]:
    gateway = Gateway()
    door = Door(folder / "door", gateway.serve)
    door.open()
    try:
        yield door, gateway
    finally:
        await door.close()
        assert all(served.listener.fileno() == -1 for served in gateway.served)
        assert not (folder / "door").exists()


async def hand_over(folder: Path, run: str, descriptors: int = 1) -> bytes:
    """What the door answers."""

    def send() -> bytes:
        place = os.open(folder, os.O_PATH)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection,
            socket.create_server(("127.0.0.1", 0)) as own,
        ):
            connection.settimeout(20)
            connection.connect(f"/proc/self/fd/{place}/door")
            os.close(place)
            socket.send_fds(connection, [run.encode()], [own.fileno()] * descriptors)
            return connection.recv(1)

    return await asyncio.to_thread(send)


async def test_a_listener_is_taken_once_for_a_run_that_is_expected(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    async with opened(folder) as (door, gateway):
        assert await hand_over(folder, "a") == b""
        door.expect("a")
        assert await hand_over(folder, "a", descriptors=0) == b""
        assert await hand_over(folder, "a") == TAKEN
        assert await hand_over(folder, "a") == b""
        assert len(gateway.served) == 1
        await door.dismiss("a")
        await door.dismiss("a")
        assert gateway.served[0].listener.fileno() == -1
        door.expect("b")
        assert await hand_over(folder, "b") == TAKEN


async def test_a_run_that_ends_while_its_listener_is_taken_leaves_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as (door, gateway):
        serve = gateway.serve

        async def dismissing(listener: socket.socket) -> Listener:
            served = await serve(listener)
            await door.dismiss("a")
            return served

        door._serve = dismissing
        door.expect("a")
        assert await hand_over(tmp_path, "a") == b""
        assert gateway.served[0].listener.fileno() == -1


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (AgentLimits(), None),
        (AgentLimits(memory_bytes=1024**2), "the agent used more memory than AGENT_MEMORY_LIMIT (1 MiB)"),
        (AgentLimits(cpu_seconds=0), "the agent used more processor time than AGENT_CPU_LIMIT (0 s)"),
        (AgentLimits(processes=0), "the agent started more processes than AGENT_PROCESS_LIMIT (0)"),
        (AgentLimits(disk_bytes=1024**2), "the agent wrote more than AGENT_DISK_LIMIT (1 MiB)"),
    ],
)
def test_what_passes_a_limit_is_named(tmp_path: Path, limits: AgentLimits, reason: str | None) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(os.urandom(2 * 1024**2))
    script = "sum(n * n for n in range(1_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={RUN_MARKER: str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        try:
            assert LimitWatch(tmp_path, limits).look() == reason
        finally:
            agent.kill()
