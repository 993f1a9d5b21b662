"""The processes under measurement."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil


@asynccontextmanager
async def fastapi(root: Path) -> AsyncIterator[tuple[int, psutil.Process]]:
    """The service in FastAPI on the files below `root`: its port and its process."""
    command = (sys.executable, "-m", "benchmarks.rest.service", str(root))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline())["port"], psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


def envoy_process() -> psutil.Process:
    """The Envoy that this process has started."""
    (found,) = (child for child in psutil.Process().children() if Path(child.exe()).name.startswith("envoy"))
    return found


def cpu_seconds(process: psutil.Process) -> float:
    """The processor time that a process has taken until now."""
    times = process.cpu_times()
    return times.user + times.system
