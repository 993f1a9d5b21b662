"""What the clients add to a call and to an event, side by side with the bare stubs that they are made of."""

from __future__ import annotations

import os

# Processes are started by exec only; gRPC's handlers for a fork that goes on would only warn that they are idle.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
