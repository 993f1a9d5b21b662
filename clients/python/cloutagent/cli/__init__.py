"""The `cloutagent` command. It needs what the extra `cloutagent[cli]` brings: typer and rich."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import NoReturn

_NEEDED = ("typer", "rich")


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end the process."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(f"cloutagent: the command line needs {' and '.join(missing)}: pip install 'cloutagent[cli]'")
    # What gRPC's core would write by itself is in the errors that the commands tell.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from cloutagent.cli.app import run

    run()
