"""Runs the server in the foreground: alone, or as a whole stack with Envoy and the scripted local model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloutagent_server import interpreter
from cloutagent_server.app import App
from cloutagent_server.engine.claude import clear_away
from cloutagent_server.engine.local_model import LocalModel, ScriptLibrary
from cloutagent_server.folder_lock import check_apart, run_directory
from cloutagent_server.foreground import running_envoy, stop_signal, until_stopped
from cloutagent_server.settings import Settings, reached_at

# An Envoy in front asks each second how a server is (`health_checks` in envoy.yaml).
ROTATION_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the running parts are reached. `rest_port` is None without Envoy, `model_url` without the local model.

    With `tls` Envoy is reached by https. With a `grpc_socket` the port of the server is 0. The hosts are as in URLs.
    """

    grpc_port: int
    rest_port: int | None = None
    model_url: str | None = None
    tls: bool = False
    grpc_socket: Path | None = None
    grpc_host: str = "127.0.0.1"
    rest_host: str = "127.0.0.1"


async def serve(settings: Settings, started: Callable[[Stack], None]) -> None:
    """Run the server alone until SIGINT or SIGTERM; `started` is called once it takes calls.

    Before it stops, an Envoy in front of several servers has the time to send what comes to the others.
    """
    stopped = stop_signal()
    async with _server(settings) as (app, port, _):
        started(Stack(port, grpc_socket=settings.grpc_socket, grpc_host=reached_at(settings.grpc_host)))
        await stopped.wait()
        await app.leave_rotation()
        await asyncio.sleep(ROTATION_SECONDS)


async def serve_stack(settings: Settings, scripts: ScriptLibrary | None, started: Callable[[Stack], None]) -> None:
    """Run Envoy and the server, with `scripts` against a local model that has them, until SIGINT or SIGTERM.

    Raises:
        EnvoyFailed: Envoy did not start.
        ComponentDied: Envoy ended by itself; the rest was stopped.
    """
    stopped = stop_signal()
    async with AsyncExitStack() as stack:
        model_url = None
        if scripts is not None:
            model_url = await stack.enter_async_context(_local_model(settings.local_model_port, scripts))
            settings = settings.model_copy(update={"anthropic_base_url": model_url, "anthropic_api_key": None})
        app, grpc_port, directory = await stack.enter_async_context(_server(settings))
        upstreams = [(settings.grpc_address, grpc_port)]
        envoy = await stack.enter_async_context(
            running_envoy(settings, upstreams, directory / "envoy", loopback_only=settings.trusts_loopback)
        )
        app.show_envoy(envoy.statistics)
        tls = settings.certificate is not None
        hosts = reached_at(settings.grpc_host), reached_at(settings.host)
        started(Stack(grpc_port, envoy.port, model_url, tls, settings.grpc_socket, *hosts))
        await until_stopped(stopped, envoy)
        # Watchers get the ends of their runs while Envoy still carries them; then it has nothing to wait for.
        await app.finish_runs()


async def serve_local_model(port: int, scripts: ScriptLibrary, started: Callable[[str], None]) -> None:
    """Run the scripted local model alone until SIGINT or SIGTERM; `started` gets its base URL."""
    stopped = stop_signal()
    async with _local_model(port, scripts) as url:
        started(url)
        await stopped.wait()


@asynccontextmanager
async def _server(settings: Settings) -> AsyncIterator[tuple[App, int, Path]]:
    """A server at work, its port, and the directory that is its own for as long."""
    check_apart(settings.project_root, settings.run_root)
    with run_directory(settings.run_root, clear_away) as directory:
        app = App.from_settings(settings.model_copy(update={"run_root": directory}))
        try:
            port = await app.start()
            interpreter.settle()
            yield app, port, directory
        finally:
            await app.stop()


@asynccontextmanager
async def _local_model(port: int, scripts: ScriptLibrary) -> AsyncIterator[str]:
    model = LocalModel(scripts=scripts)
    await model.start("127.0.0.1", port)
    try:
        yield model.base_url
    finally:
        await model.stop()
