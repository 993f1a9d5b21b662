"""The measuring processes: one for each client, so that what one of them takes is not counted for another."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.clients.order import Order
from benchmarks.clients.rounds import Measured

_PACKAGE: Final = Path(__file__).parents[2] / "clients" / "typescript"
_MOST_SECONDS: Final = 600.0


async def blocking(order: Order) -> Measured:
    """`Client` and bare gRPC."""
    return await _measured(order, sys.executable, "-m", "benchmarks.clients.blocking")


async def concurrent(order: Order) -> Measured:
    """`AsyncClient` and bare `grpc.aio`."""
    return await _measured(order, sys.executable, "-m", "benchmarks.clients.concurrent")


async def typescript(order: Order, folder: Path) -> Measured:
    """The TypeScript client, bare `fetch` and Connect, in Node, as one script which is made in `folder`."""
    script = str(folder / "measuring.mjs")
    source = str(_PACKAGE / "test" / "benchmark" / "main.ts")
    bundled = ("--bundle", "--platform=node", "--format=esm", "--log-level=warning", f"--outfile={script}")
    await _output_of(("node", str(_PACKAGE / "node_modules" / "esbuild" / "bin" / "esbuild"), source, *bundled), b"")
    return await _measured(order, "node", script)


async def _measured(order: Order, *command: str) -> Measured:
    measured: Measured = json.loads(await _output_of(command, json.dumps(asdict(order)).encode()))
    return measured


async def _output_of(command: Sequence[str], given: bytes) -> bytes:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            printed, _ = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} has ended with exit code {process.returncode}")
    return printed
