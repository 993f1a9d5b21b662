"""Replay, fan-out, latency, memory, and what one stalled watcher costs the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from statistics import median
from typing import Final

import aiohttp
import grpc
from google.api.httpbody_pb2 import HttpBody

from benchmarks.executions.figures import Figure, percentile
from benchmarks.executions.remote import NO_LARGER_WINDOW, RESULT, STREAMS_PER_CHANNEL, WINDOW, Remote, Stream
from cloutagent.v1.execution_pb2 import WatchExecutionResponse
from cloutagent_server.service.runner import MOST_WAITING_TEXTS

# The issue's.
REPLAY_GRPC: Final = 100_000
REPLAY_REST: Final = 300_000
LATENCY_MS: Final = 10.0
FAN_OUT: Final = 0.8
LATENCY_WATCHERS: Final = 100
PAUSE: Final = 0.1

# Texts of a run that writes fast are stored together, so many at most.
GROUP: Final = MOST_WAITING_TEXTS
# One that reads nothing must be sent more than its window holds.
_STALLING_BYTES: Final = 4 * WINDOW
EVENT_BYTES: Final = 120
"""An event is longer than this on the wire."""
# The last event is shorter than that, and lies at the end of its message.
_LAST_BYTES: Final = 256
_NDJSON: Final = {"accept": "application/x-ndjson"}
_EVENTS_PATH: Final = "/api/v1/executions/{}/stream"


async def replay(remote: Remote, events: int, rounds: int) -> Sequence[Figure]:
    """How fast the log of a run that has ended is told, by all ways. Each time another log, which nobody has read."""

    async def log() -> tuple[str, int]:
        made = await remote.order("log", events=events, ended=True)
        return made["execution_id"], made["last"]

    grpc_rates, direct_rates, rest_rates = [], [], []
    for _ in range(rounds):
        execution_id, last = await log()
        begun = time.perf_counter()
        async with remote.channels(1) as (channel,):
            data = [message async for message in remote.watch(channel, execution_id)]
        grpc_rates.append(last / (time.perf_counter() - begun))
        assert sum(len(WatchExecutionResponse.FromString(message).events) for message in data) == last
        execution_id, last = await log()
        begun = time.perf_counter()
        async with remote.channels(1) as (channel,):
            data = [message async for message in remote.text(channel, execution_id)]
        direct_rates.append(last / (time.perf_counter() - begun))
        assert sum(HttpBody.FromString(message).data.count(b"\n") for message in data) == last
        execution_id, last = await log()
        rest_rates.append(last / await _rest_seconds(remote, execution_id, last))
    return [
        Figure(f"replay of {events:,} events, gRPC", median(grpc_rates), "events/s", least=REPLAY_GRPC),
        Figure(f"replay of {events:,} events, NDJSON before Envoy", median(direct_rates), "events/s"),
        Figure(f"replay of {events:,} events, REST (NDJSON)", median(rest_rates), "events/s", least=REPLAY_REST),
    ]


async def latency(remote: Remote, watchers: int, events: int, rounds: int) -> Sequence[Figure]:
    """From handing an event to the storage to its arrival at each watcher, at 10 events a second."""
    ours, bare = list[Sequence[float]](), list[Sequence[float]]()
    for _ in range(rounds):
        log = await remote.order("log", events=1, ended=False)
        async with remote.watching(log["execution_id"], watchers, events) as arrivals:
            await remote.order("produce", execution_id=log["execution_id"], events=events, group=1, pause=PAUSE)
            ours.append(await arrivals)
        async with remote.watching_bare(watchers, events) as arrivals:
            await remote.order("produce_bare", events=events, pause=PAUSE)
            bare.append(await arrivals)
    name = f"event to watcher, {watchers} watchers, {1 / PAUSE:.0f} events/s"
    most = LATENCY_MS if watchers == LATENCY_WATCHERS else None
    return [_latency(name, ours, bare, 50), _latency(name, ours, bare, 99, most)]


def _latency(
    name: str, ours: Sequence[Sequence[float]], bare: Sequence[Sequence[float]], percent: int, most: float | None = None
) -> Figure:
    found, other = ([percentile([one * 1e3 for one in times], percent) for times in rounds] for rounds in (ours, bare))
    note = f"{min(found):.2f} to {max(found):.2f}; {median(other):.2f} ms from a bare stream, which stores nothing"
    return Figure(f"{name}, p{percent}", median(found), "ms", most=most, note=note)


async def fan_out(remote: Remote, watchers: int, events: int, rounds: int) -> Sequence[Figure]:
    """Events to many watchers at once, in turns with two bare streams of the same bytes.

    One sends what the same storage has taken from the same producer, as soon as it has: what is spread cannot come
    faster than it is stored. The other one sends messages as large that were made beforehand. It has no target: it
    stores nothing, which with few watchers is most of the time.
    """
    seconds, premade, stored, sizes = [], [], [], []
    for _ in range(rounds):
        taken, execution_id, messages = await _spread(remote, watchers, events)
        group = max(1, round(events * watchers / messages))
        seconds.append(taken)
        premade.append(await _bare_spread(remote, watchers, execution_id, group))
        stored.append(await _stored_spread(remote, watchers, events))
        sizes.append(group)
    name = f"fan-out to {watchers:,} watchers"
    connections = f"{-(-watchers // STREAMS_PER_CHANNEL)} connections"

    def share(of: Sequence[float]) -> float:
        return median(other / own for own, other in zip(seconds, of, strict=True))

    def rate(times: Sequence[float]) -> float:
        return events * watchers / median(times)

    return [
        Figure(name, rate(seconds), "events/s", note=f"{median(sizes):.0f} events a message; {connections}"),
        Figure(
            f"{name}, of a bare stream of what is stored",
            share(stored),
            "",
            least=FAN_OUT,
            note=f"{rate(stored):,.0f} events/s",
        ),
        Figure(
            f"{name}, of a bare stream of what was made before",
            share(premade),
            "",
            note=f"{rate(premade):,.0f} events/s",
        ),
    ]


async def memory(remote: Remote, watchers: int) -> Sequence[Figure]:
    """What a watcher that waits for events takes."""
    log = await remote.order("log", events=1, ended=False)
    before = (await remote.order("memory"))["bytes"]
    async with remote.channels(watchers) as channels:
        streams = await _opened(remote, channels, log["execution_id"])
        after = (await remote.order("memory"))["bytes"]
        for stream in streams:
            stream.cancel()
    return [Figure(f"memory per watcher, of {watchers:,}", (after - before) / watchers / 1024, "KiB")]


async def stalled(remote: Remote, watchers: int, events: int, rounds: int) -> Sequence[Figure]:
    """How much slower all others get the events when one watcher reads nothing, in turns with rounds without."""
    without, others = [], []
    for _ in range(rounds):
        without.append((await _spread(remote, watchers, events))[0])
        others.append((await _spread(remote, watchers, events, stall=True))[0])
    ratios = [one / other for one, other in zip(others, without, strict=True)]
    spread = max(without) / min(without)
    note = f"the rounds without one differ by up to {spread:.2f}"
    return [
        Figure(f"one stalled watcher, time of {watchers} others", median(ratios), "", most=max(1.1, spread), note=note)
    ]


async def _spread(remote: Remote, watchers: int, events: int, *, stall: bool = False) -> tuple[float, str, int]:
    """Seconds until all watchers have all events, of which execution, and how many messages they were."""
    log = await remote.order("log", events=1, ended=False)
    execution_id = log["execution_id"]
    assert not stall or events * EVENT_BYTES > _STALLING_BYTES
    async with remote.channels(watchers) as channels, remote.channels(1, options=NO_LARGER_WINDOW) as apart:
        streams = await _opened(remote, channels, execution_id)
        slow = (await _opened(remote, apart, execution_id)) if stall else ()
        reading = [asyncio.create_task(_received(stream)) for stream in streams]
        begun = await remote.order("produce", execution_id=execution_id, events=events, group=GROUP, pause=0.0)
        messages = sum(await asyncio.gather(*reading))
        seconds = time.monotonic() - begun["at"]
        for stream in slow:
            stream.cancel()
    return seconds, execution_id, messages


async def _bare_spread(remote: Remote, watchers: int, execution_id: str, group: int) -> float:
    await remote.order("bare", execution_id=execution_id, after=1, group=group)
    async with remote.channels(watchers, bare=True) as channels:
        streams = [remote.bare(channel) for channel in channels]
        await asyncio.gather(*(stream.initial_metadata() for stream in streams))
        reading = [asyncio.create_task(_received(stream)) for stream in streams]
        begun = await remote.order("bare_go")
        await asyncio.gather(*reading)
        return time.monotonic() - float(begun["at"])


async def _stored_spread(remote: Remote, watchers: int, events: int) -> float:
    log = await remote.order("log", events=1, ended=False)
    async with remote.channels(watchers, bare=True) as channels:
        streams = [remote.bare_live(channel) for channel in channels]
        await asyncio.gather(*(stream.initial_metadata() for stream in streams))
        reading = [asyncio.create_task(_received(stream)) for stream in streams]
        begun = await remote.order("produce_stored", execution_id=log["execution_id"], events=events, group=GROUP)
        await asyncio.gather(*reading)
        return time.monotonic() - float(begun["at"])


async def _opened(remote: Remote, channels: Sequence[grpc.aio.Channel], execution_id: str) -> Sequence[Stream]:
    """Watches that have got the first event, and wait for the next."""
    streams = [remote.watch(channel, execution_id) for channel in channels]
    await asyncio.gather(*(anext(aiter(stream)) for stream in streams))
    return streams


async def _received(stream: Stream) -> int:
    """Read until the last event of the run is there; returns how many messages they were."""
    count = 0
    async for message in stream:
        count += 1
        if RESULT in message[-_LAST_BYTES:]:
            return count
    raise ConnectionError("the stream ended before its last event")


async def _rest_seconds(remote: Remote, execution_id: str, last: int) -> float:
    url = f"http://127.0.0.1:{remote.rest_port}{_EVENTS_PATH.format(execution_id)}"
    begun = time.perf_counter()
    async with aiohttp.ClientSession(headers={**_NDJSON, **dict(remote.metadata)}) as session, session.get(url) as got:
        assert got.status == 200, await got.text()
        lines = 0
        async for chunk in got.content.iter_any():
            lines += chunk.count(b"\n")
    assert lines == last
    return time.perf_counter() - begun
