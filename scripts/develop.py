"""Run server, Envoy and the local model, and start them again whenever their sources change. For development.

When a proto changes, the stubs and Envoy's descriptor set are generated first; while a proto does not compile, what
runs goes on. A server that ends by itself is started again by the next change.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from watchfiles import Change, DefaultFilter, watch

from scripts.proto_image import PROTOS, REPOSITORY

SOURCES: Final = (
    REPOSITORY / "server" / "cloutagent_server",
    REPOSITORY / "clients" / "python" / "cloutagent",
    REPOSITORY / "envoy",
    PROTOS,
)
COMMAND: Final = (sys.executable, "-m", "cloutagent_server", "up", "--local-model")
GENERATE: Final = (sys.executable, "-m", "scripts.generate_protos")
_SUFFIXES: Final = {".lua", ".proto", ".py", ".yaml"}
_STOP_SECONDS: Final = 30.0


class Sources(DefaultFilter):
    """Files that a person writes. What is generated from them changes with them, and must not count again."""

    def __call__(self, change: Change, path: str) -> bool:
        """Whether this change counts."""
        name = Path(path)
        return name.suffix in _SUFFIXES and "_pb2" not in name.name and super().__call__(change, path)


class Server:
    """The command that is started again and again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(COMMAND, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Stop it in order, and return when it has ended; after 30 seconds it is killed."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    server = Server()
    server.start()
    try:
        for changes in watch(*SOURCES, watch_filter=Sources(), stop_event=stopped):
            paths = sorted({Path(path) for _, path in changes})
            print(f"changed: {', '.join(str(path.relative_to(REPOSITORY)) for path in paths)}", flush=True)
            if any(path.suffix == ".proto" for path in paths) and subprocess.run(GENERATE, check=False).returncode:
                print("what runs stays as it is", flush=True)
                continue
            server.stop()
            server.start()
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
