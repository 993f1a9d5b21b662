"""What executions and their watchers cost, side by side with what gRPC and the SDK do by themselves."""

from __future__ import annotations

import os

# Processes are started by exec only; gRPC's handlers for a fork that goes on would only warn that they are idle.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
