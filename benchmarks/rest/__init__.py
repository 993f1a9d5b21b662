"""What a REST call costs, side by side with the same server's gRPC and with a service in FastAPI of the same job."""

from __future__ import annotations

import os

# Processes are started by exec only; gRPC's handlers for a fork that goes on would only warn that they are idle.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
