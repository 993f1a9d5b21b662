"""A command as a child process whose output can be waited for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

_DEADLINE: Final = 60.0
_POLL: Final = 0.05


class Spawned:
    """Use it as a context manager; at the end it is stopped in order, and killed if it does not stop."""

    def __init__(self, command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Of this process's environment it sees the PATH alone; it shows no metrics. Its output goes to `log`."""
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": os.environ["PATH"], **environment, "METRICS_PORT": "0"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def __enter__(self) -> Spawned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            try:
                self.stop()
            finally:
                self.process.kill()
                self.process.wait()

    @property
    def output(self) -> str:
        """All that it has written."""
        return self._log.read_text(errors="replace")

    def stop(self, pid: int | None = None) -> int:
        """Stop it by SIGTERM, to the process `pid` below it if that is given; its exit status."""
        os.kill(self.process.pid if pid is None else pid, signal.SIGTERM)
        return self.process.wait(_DEADLINE)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait until `holds`; fail if the command ends before, or after a minute."""
        deadline = time.monotonic() + _DEADLINE
        while not holds():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.output}"
            assert time.monotonic() < deadline, f"never {what}:\n{self.output}"
            time.sleep(_POLL)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
