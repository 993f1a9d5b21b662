"""The load, in a process of its own: `python -m benchmarks.rest.load`, with an order as JSON on standard input.

So many calls are under way at any time; each that ends is followed by the next. A client in Python that does all that
HTTP allows takes longer for a call than the server. This one sends prepared bytes, and reads of an answer no more than
where it ends and that it is whole. What it measured is printed as JSON: see `Load`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import uvloop

from benchmarks.executions.figures import percentile
from benchmarks.rest.clients import Calls, GrpcConnection, HttpConnection

MOST_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured.

    Attributes:
        rate: Calls a second.
        p50, p99: Milliseconds from the request to the end of its answer.
    """

    rate: float
    p50: float
    p99: float


async def run(port: int, path: str, key: str, message: str | None, in_flight: int, calls: int) -> Load:
    """Make so many calls of one method: GET by HTTP/1.1, or with a `message`, in hexadecimal digits, gRPC."""
    loop = asyncio.get_running_loop()
    counted = Calls(calls)
    begun = time.perf_counter()
    if message is None:
        for _ in range(in_flight):
            await loop.create_connection(lambda: HttpConnection(path, key, counted), "127.0.0.1", port)
    else:
        content = bytes.fromhex(message)
        await loop.create_connection(lambda: GrpcConnection(path, key, content, in_flight, counted), "127.0.0.1", port)
    async with asyncio.timeout(MOST_SECONDS):
        await counted.done
    seconds = time.perf_counter() - begun
    milliseconds = [one * 1e3 for one in counted.seconds]
    return Load(calls / seconds, percentile(milliseconds, 50), percentile(milliseconds, 99))


def main() -> None:
    """The command."""
    order: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(uvloop.run(run(**order)))))


if __name__ == "__main__":
    main()
