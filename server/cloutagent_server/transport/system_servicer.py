"""SystemService over gRPC."""

from __future__ import annotations

from cloutagent.v1 import system_pb2, system_pb2_grpc
from cloutagent_server.transport.context import Context


class SystemServicer(system_pb2_grpc.SystemServiceServicer):
    """Tells that the server is up."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def GetHealth(self, request: system_pb2.GetHealthRequest, context: Context) -> system_pb2.GetHealthResponse:
        """Answer with `ok` and the version."""
        return system_pb2.GetHealthResponse(status="ok", version=self._version)
