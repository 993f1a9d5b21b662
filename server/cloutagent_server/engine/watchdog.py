"""A process beside the server that ends the agents when the server dies, however it dies.

Where agents are not isolated, the kernel sends them no more than SIGTERM at the server's death (see `launch`). One that
hangs or is stopped does not act on that, and what they started gets nothing at all. The watchdog holds the reading end
of a pipe whose other end only the server has: when that closes, it ends all that is left of the runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from cloutagent_server.engine.process import reap_orphans

# What is left after so many seconds is killed. Whoever wants to end by itself has had the kernel's signal before.
_GRACE_SECONDS: Final = 1.0
_KEPT: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Watchdog:
    """Ends the runs in the workspace root `root` within some 2 seconds after this process has died."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process; None before the start and after the stop."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it. It gets nothing of the server's environment that could be a secret. Raises OSError."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(self._root.resolve())],
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in the server's terminal, and whatever ends the server's process group, is not for it.
            start_new_session=True,
        )

    def stop(self) -> None:
        """End it, and nothing else: the server has ended its runs itself."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> None:
    """Wait for the server's death, which closes standard input, then end what is left of its runs."""
    while os.read(0, 1):
        pass
    reap_orphans(Path(sys.argv[1]), _GRACE_SECONDS)


if __name__ == "__main__":
    main()
