"""Envoy alone, in front of servers that run by `cloutagent-server serve`.

`cloutagent-server envoy` runs it where the server is installed; `python -m cloutagent_server.sidecar` does the same in
Envoy's container, whose image has the packages that are imported here and no others. The settings are the server's, and
Envoy's part of them is used. No key is needed, and nothing that could use one is imported; only whether there is an
admin key is of concern, for who may be answered.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from typing import Final

from cloutagent_server import logs
from cloutagent_server.envoy_process import EnvoyFailed
from cloutagent_server.folder_lock import FolderInUse, run_directory
from cloutagent_server.foreground import ComponentDied, running_envoy, stop_signal, until_stopped
from cloutagent_server.settings import Environment, InvalidSettings, Settings, load, reached_at

# Below RUN_ROOT, apart from the directories of servers: what these leave when they die is not ended here.
_FOLDER: Final = "envoy"

# What stands for the keys, which other environments and other places of the model insist on.
_NO_KEYS: Final = {
    "APP_ENV": Environment.DEVELOPMENT,
    "anthropic_base_url": "http://127.0.0.1",
    "anthropic_api_key": None,
    "encryption_key": None,
    "encryption_keys_retired": None,
}


async def run(settings: Settings) -> None:
    """Run Envoy until SIGINT or SIGTERM, then let what is under way end, for up to 5 s.

    Raises:
        EnvoyFailed: Envoy did not start.
        ComponentDied: Envoy ended by itself.
        FolderInUse: RUN_ROOT is kept by another that starts.
        OSError: RUN_ROOT cannot be written to.
    """
    stopped = stop_signal()
    with run_directory(settings.run_root / _FOLDER, shutil.rmtree) as directory:
        upstreams, own = settings.upstream_addresses, directory / "envoy"
        async with running_envoy(settings, upstreams, own, loopback_only=settings.trusts_loopback) as envoy:
            scheme = "http" if settings.certificate is None else "https"
            print(f"REST, gRPC    {scheme}://{reached_at(settings.host)}:{envoy.port}\nready", flush=True)
            await until_stopped(stopped, envoy)


def main() -> int:
    """Run with the settings of the environment and `.env`; returns the exit status."""
    try:
        settings = load(**_NO_KEYS)
        logs.configure(settings.log_level)
        asyncio.run(run(settings))
    except (InvalidSettings, EnvoyFailed, ComponentDied, FolderInUse, OSError) as fault:
        print(fault, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
