"""Starts the whole stack as a user would, on free ports and in a folder of its own, and stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
_READY: Final = re.compile(r"^REST, gRPC\s+http://127\.0\.0\.1:(\d+)$.*^ready$", re.MULTILINE | re.DOTALL)

_MODEL: Final = re.compile(r"^local model\s+(http://127\.0\.0\.1:\d+) ", re.MULTILINE)


class StackFailed(Exception):
    """The stack did not start, or ended by itself."""


class Stack:
    """`cloutagent-server up` as a child process. Use it as a context manager."""

    def __init__(self, folder: Path, live: bool, scripts: Path | None = None) -> None:
        """`folder` takes all data and logs. With `live` the vendor's API is used, else the local model.

        `scripts` is the folder that has the command, by default that of this interpreter.
        """
        self.projects = folder / "projects"
        self.output = folder / "stdout.log"
        self.log = folder / "stderr.log"
        self._folder = folder
        self._live = live
        self._scripts = Path(sys.executable).parent if scripts is None else scripts
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Stack:
        with self.output.open("wb") as output, self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                # A group of its own: Ctrl-C in the terminal ends the demo, which then stops the server in order.
                process_group=0,
            )
        try:
            self.port = self._wait_until_ready(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Process id of the server. Raises StackFailed if it was not started."""
        if self._process is None:
            raise StackFailed("the stack was not started")
        return self._process.pid

    @property
    def model_url(self) -> str:
        """Base URL of the local model. Raises StackFailed if none runs."""
        found = _MODEL.search(self.output.read_text(errors="replace"))
        if found is None:
            raise StackFailed("no local model runs")
        return found.group(1)

    @property
    def url(self) -> str:
        """Base URL of REST and gRPC."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        command = [str(self._scripts / "cloutagent-server"), "up"]
        return command if self._live else [*command, "--local-model"]

    @property
    def environment(self) -> dict[str, str]:
        """Only what the server needs: nothing of the caller's environment changes what the demo does."""
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "PORT": "0",
            "GRPC_PORT": "0",
            "METRICS_PORT": "0",
            "RATE_LIMIT_WRITES_PER_MINUTE": "0",
            "PROJECT_ROOT": str(self.projects),
            "RUN_ROOT": str(self._folder / "runs"),
        }
        if self._live:
            environment["ANTHROPIC_API_KEY"] = os.environ.get("ANTHROPIC_API_KEY", "")
        return environment

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ready = _READY.search(self.output.read_text(errors="replace"))
            if ready is not None:
                return int(ready.group(1))
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise StackFailed("the stack did not start:\n" + self.log.read_text(errors="replace"))

    def _stop(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
