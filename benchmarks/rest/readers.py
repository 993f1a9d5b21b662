"""What readers of server-sent events that hardly read take of Envoy's memory."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Sequence
from typing import Final

import psutil

from benchmarks.executions.figures import Figure
from benchmarks.executions.remote import Remote
from benchmarks.rest.processes import envoy_process

# A log that no buffer on the way takes whole, and how slowly it is read: 20 KB a second.
EVENTS: Final = 20_000
READ_BYTES: Final = 4_096
READ_PAUSE: Final = 0.2
MOST_SECONDS: Final = 60.0


def allow_open_files(count: int) -> None:
    """Let this process, and those that it starts from now on, open so many files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(hard, count)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def slow_readers(remote: Remote, readers: int, seconds: float) -> Sequence[Figure]:
    """The most memory that Envoy has while so many read a long log slowly, for so many seconds."""
    log = await remote.order("log", events=EVENTS, ended=True)
    path = f"/api/v1/executions/{log['execution_id']}/stream"
    request = f"GET {path} HTTP/1.1\r\nhost: benchmark\r\nx-api-key: {remote.api_key}\r\n\r\n".encode()
    envoy, server = envoy_process(), psutil.Process(remote.pid)
    before, server_before = envoy.memory_info().rss, server.memory_info().rss
    most, server_most = before, server_before
    sockets = list[socket.socket]()
    try:
        for _ in range(readers):
            sockets.append(await _asked(remote.rest_port, request))
        got = [0] * readers
        end = time.monotonic() + seconds
        async with asyncio.timeout(seconds + MOST_SECONDS):
            while time.monotonic() < end or not all(got):
                for number, one in enumerate(sockets):
                    got[number] += _read(one)
                most = max(most, envoy.memory_info().rss)
                server_most = max(server_most, server.memory_info().rss)
                await asyncio.sleep(READ_PAUSE)
    finally:
        for one in sockets:
            one.close()
    mib = 2**20
    name = f"{readers:,} slow readers"
    return [
        Figure(f"memory of Envoy, {name}", most / mib, "MiB", note=f"{before / mib:,.0f} MiB before"),
        Figure(f"memory of Envoy, each of {name}", (most - before) / readers / 1024, "KiB"),
        Figure(
            f"memory of the server, {name}", server_most / mib, "MiB", note=f"{server_before / mib:,.0f} MiB before"
        ),
    ]


async def _asked(port: int, request: bytes) -> socket.socket:
    """A connection with room for little that has asked for a stream."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_BYTES)
    opened.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(opened, ("127.0.0.1", port))
    await loop.sock_sendall(opened, request)
    return opened


def _read(opened: socket.socket) -> int:
    """Read a little of what is there; how much that was."""
    try:
        data = opened.recv(READ_BYTES)
    except BlockingIOError:
        return 0
    if not data:
        raise RuntimeError("a slow reader was dropped")
    return len(data)
