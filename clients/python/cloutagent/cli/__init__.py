"""The `cloutagent` command. It needs what the extra `cloutagent[cli]` brings: typer and rich."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from typing import NoReturn

_NEEDED = ("typer", "rich")
_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end the process.

    SIGTERM ends it as Ctrl-C does, from the start; one that is ignored stays so.
    """
    try:
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        _run()
    except KeyboardInterrupt:
        sys.stderr.write("cloutagent: interrupted\n")
        sys.exit(_INTERRUPTED)
    finally:
        # A further one has nothing left to interrupt, and what Python does at its end would tell it with a traceback.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == signal.default_int_handler:
                signal.signal(number, signal.SIG_DFL)


def _run() -> NoReturn:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"cloutagent: the command line needs {' and '.join(missing)}: pip install 'cloutagent[cli]'")
    # What gRPC's core would write by itself is in the errors that the commands tell.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from cloutagent.cli.app import run

    run()
