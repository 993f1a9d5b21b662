"""Envoy in a container of its own, as `python -m cloutagent_server.sidecar`, in front of a server elsewhere.

The settings are the server's, and Envoy's part of them is used: HOST and PORT say where Envoy listens, GRPC_HOST and
GRPC_PORT where the server is, and RUN_ROOT where Envoy's own files go. Keys are neither needed nor read: what runs here
imports nothing that could use them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import Final

from cloutagent_server.envoy_process import EnvoyFailed, EnvoyProcess
from cloutagent_server.settings import Environment, InvalidSettings, Settings, load

# What stands for the keys, which other environments and other places of the model insist on.
_NO_KEYS: Final = {
    "APP_ENV": Environment.DEVELOPMENT,
    "anthropic_base_url": "http://127.0.0.1",
    "anthropic_api_key": None,
    "encryption_key": None,
    "encryption_keys_retired": None,
    "admin_api_key": None,
}


async def run(settings: Settings) -> None:
    """Run Envoy until SIGINT or SIGTERM, then let what is under way end, for up to 5 s.

    Raises:
        EnvoyFailed: Envoy did not start, or ended by itself.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    envoy = EnvoyProcess.from_settings(settings, settings.upstream_addresses, settings.run_root / "envoy")
    try:
        await envoy.start()
        print(f"Envoy listens on {settings.host}:{envoy.port}", flush=True)
        stopping, ended = asyncio.create_task(stopped.wait()), asyncio.create_task(envoy.wait())
        await asyncio.wait((stopping, ended), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not stopped.is_set():
            raise EnvoyFailed(f"Envoy ended by itself with exit code {await ended}; its log says why")
    finally:
        await envoy.stop()
        with contextlib.suppress(OSError):
            (settings.run_root / "envoy").rmdir()


def main() -> int:
    """Run with the settings of the environment; returns the exit status."""
    try:
        asyncio.run(run(load(**_NO_KEYS)))
    except (InvalidSettings, EnvoyFailed, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
