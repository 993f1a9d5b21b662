"""Runs the `cloutagent-server` command."""

from __future__ import annotations

import os

# The server starts processes by exec only; gRPC's handlers for a fork that goes on would only warn that they are idle.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Lines that gRPC's core writes by itself are no JSON; what goes wrong with a call is in the answer and in its line.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from cloutagent_server.cli import main

if __name__ == "__main__":
    main()
