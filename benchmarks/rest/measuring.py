"""The same call by three ways, in turns."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import aiohttp
import psutil

from benchmarks.executions.figures import Figure
from benchmarks.executions.remote import Remote
from benchmarks.rest.load import Load
from benchmarks.rest.processes import cpu_seconds, envoy_process
from cloutagent.v1.project_pb2 import GetProjectRequest

METHOD: Final = "/cloutagent.v1.ProjectService/GetProject"


@dataclass(frozen=True, slots=True)
class Way:
    """How the call is made.

    Attributes:
        name: For people.
        order: What the load is told, but for the number of calls.
        processes: Whose processor time it takes.
    """

    name: str
    order: dict[str, Any]
    processes: Sequence[psutil.Process]


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one way; `cpu` is microseconds for a call, by process."""

    load: Load
    cpu: Sequence[float]


async def calls(
    remote: Remote, service: tuple[int, psutil.Process], count: int, in_flight: int, rounds: int
) -> Sequence[Figure]:
    """GetProject by every way."""
    path, key = f"/api/v1/projects/{remote.project_id}", remote.api_key
    assert await _document(remote.rest_port, path, key) == await _document(service[0], path, key)
    message = GetProjectRequest(project_id=remote.project_id).SerializeToString().hex()
    server, envoy = psutil.Process(remote.pid), envoy_process()
    common = {"key": key, "in_flight": in_flight}
    rest = {**common, "path": path, "message": None}
    ways = [
        Way("REST, through Envoy", {**rest, "port": remote.rest_port}, (server, envoy)),
        Way("gRPC, direct", {**common, "path": METHOD, "message": message, "port": remote.port}, (server,)),
        Way("FastAPI and uvicorn", {**rest, "port": service[0]}, (service[1],)),
    ]
    for way in ways:
        await _round(way, max(2, count // 10))
    measured: dict[str, list[Round]] = {way.name: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            measured[way.name].append(await _round(way, count))
    figures = [figure for way in ways for figure in _figures(way, measured[way.name])]
    own = measured[ways[0].name]
    for way in ways[1:]:
        figures += _ratios(f"{ways[0].name}, of {way.name}", own, measured[way.name])
    return figures


async def _document(port: int, path: str, key: str) -> Any:
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"x-api-key": key}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def _round(way: Way, count: int) -> Round:
    pipe = asyncio.subprocess.PIPE
    load = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.rest.load", stdin=pipe, stdout=pipe)
    before = [cpu_seconds(process) for process in way.processes]
    printed, _ = await load.communicate(json.dumps({**way.order, "calls": count}).encode())
    after = [cpu_seconds(process) for process in way.processes]
    if load.returncode:
        raise RuntimeError(f"the load on {way.name} has failed")
    cpu = [(one - two) / count * 1e6 for one, two in zip(after, before, strict=True)]
    return Round(Load(**json.loads(printed)), cpu)


def _figures(way: Way, rounds: Sequence[Round]) -> Sequence[Figure]:
    rates = [one.load.rate for one in rounds]
    by_process = zip(way.processes, *(one.cpu for one in rounds), strict=True)
    parts = ", ".join(f"{median(cpu):,.0f} of {process.name()}" for process, *cpu in by_process)
    return [
        Figure(way.name, median(rates), "calls/s", note=f"{min(rates):,.0f} to {max(rates):,.0f}"),
        Figure(f"{way.name}, p50", median(one.load.p50 for one in rounds), "ms"),
        Figure(f"{way.name}, p99", median(one.load.p99 for one in rounds), "ms"),
        Figure(f"{way.name}, CPU of a call", median(sum(one.cpu) for one in rounds), "µs", note=parts),
    ]


def _ratios(name: str, own: Sequence[Round], other: Sequence[Round]) -> Sequence[Figure]:
    """Medians of the ratios of the same rounds."""
    pairs = list(zip(own, other, strict=True))
    return [
        Figure(f"{name}: calls/s", median(one.load.rate / two.load.rate for one, two in pairs), ""),
        Figure(f"{name}: p50", median(one.load.p50 / two.load.p50 for one, two in pairs), ""),
        Figure(f"{name}: p99", median(one.load.p99 / two.load.p99 for one, two in pairs), ""),
        Figure(f"{name}: CPU", median(sum(one.cpu) / max(1e-9, sum(two.cpu)) for one, two in pairs), ""),
    ]
