"""What everything that runs in the foreground does: hear the signal to stop, and keep an Envoy that may not end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.settings import Settings


class ComponentDied(Exception):
    """A part of the stack ended by itself."""


def stop_signal() -> asyncio.Event:
    """Set by SIGINT and SIGTERM from now on: one that comes during the start ends the start in order."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    return stopped


@asynccontextmanager
async def running_envoy(
    settings: Settings, upstreams: Sequence[tuple[str, int]], directory: Path, *, loopback_only: bool = False
) -> AsyncIterator[EnvoyProcess]:
    """An Envoy as the settings want it in front of the servers at `upstreams`, which at the end drains and stops.

    `directory` is its own for as long. With `loopback_only` it answers no request that names another host. Raises
    EnvoyFailed if it does not start.
    """
    envoy = EnvoyProcess.from_settings(settings, upstreams, directory, loopback_only=loopback_only)
    try:
        await envoy.start()
        yield envoy
    finally:
        await envoy.stop()


async def until_stopped(stopped: asyncio.Event, envoy: EnvoyProcess) -> None:
    """Return when `stopped` is set. Raises ComponentDied if Envoy ends before."""
    stopping, ending = asyncio.create_task(stopped.wait()), asyncio.create_task(envoy.wait())
    try:
        await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
        if ending.done() and not stopped.is_set():
            raise ComponentDied(f"Envoy ended by itself with exit code {ending.result()}; its log says why")
    finally:
        for task in (stopping, ending):
            task.cancel()
        await asyncio.gather(stopping, ending, return_exceptions=True)
