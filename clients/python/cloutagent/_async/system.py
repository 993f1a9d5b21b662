"""The server itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloutagent.types import GetHealthResponse, Model
from cloutagent.v1 import execution_pb2, system_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport


class AsyncSystem:
    """The server itself. `timeout` is in seconds."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def health(self, *, timeout: float | None = None) -> GetHealthResponse:
        """That the server is up, and its version. Needs no key."""
        method = self._transport.connection.system.GetHealth
        return await self._transport.call(method, system_pb2.GetHealthRequest(), timeout, repeatable=True)

    async def models(self, *, timeout: float | None = None) -> Sequence[Model]:
        """The models that an agent may use, with their list prices."""
        method = self._transport.connection.executions.ListModels
        answer = await self._transport.call(method, execution_pb2.ListModelsRequest(), timeout, repeatable=True)
        return tuple(answer.models)
