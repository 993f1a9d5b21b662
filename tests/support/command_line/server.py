"""A server in a thread of its own: the commands block, and take signals in the main thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.settings import Settings
from tests.support.api.stage import GRPC, Stage, staged

START_SECONDS = 60.0
STOP_SECONDS = 60.0

T = TypeVar("T")


class ThreadedServer:
    """A server with a scripted engine.

    Attributes:
        stage: The server and what is behind it. Touch it in its own loop alone, by `call`.
    """

    def __init__(self, stage: Stage, loop: asyncio.AbstractEventLoop) -> None:
        self.stage = stage
        self._loop = loop

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{self.stage.address}"

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns that is called in the server's loop."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(START_SECONDS)


@contextmanager
def threaded_server(folder: Path, admin_key: str) -> Iterator[ThreadedServer]:
    """Run a server on this folder."""
    settings: dict[str, Any] = {
        "app_env": "test",
        "anthropic_base_url": "http://127.0.0.1:9",
        "encryption_key": "5e" * 32,
        "admin_api_key": admin_key,
        "project_root": folder,
        "grpc_port": 0,
        "metrics_port": 0,
        "stop_grace_seconds": 0,
        "max_failed_authentications": 1000,
    }
    started: list[ThreadedServer] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with staged(GRPC, Settings(_env_file=None, **settings), GenaiPriceList(), None) as stage:
            started.append(ThreadedServer(stage, asyncio.get_running_loop()))
            ready.set()
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert ready.wait(START_SECONDS) and started, "the server did not start"
        yield started[0]
    finally:
        stop.set()
        thread.join(STOP_SECONDS)
        assert not thread.is_alive()
