"""What stands under the idempotency keys of requests to start an execution."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from weakref import WeakValueDictionary

from cloutagent_server.domain.errors import IdempotencyKeyReused, ServerUnavailable
from cloutagent_server.domain.execution import Execution
from cloutagent_server.service.requests import ExecutionRequest
from cloutagent_server.storage.base import ExecutionStorage

# How long a repeated start waits for another server to queue what it has stored.
ADMIT_SECONDS: Final = 10.0


class IdempotentStarts:
    """Finds earlier executions, and lets one request at a time with a key create one on this server."""

    def __init__(self, executions: ExecutionStorage) -> None:
        self._executions = executions
        self._admissions: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def find(self, request: ExecutionRequest) -> Execution | None:
        """The execution that the request's idempotency key stands for; None without one.

        Raises:
            IdempotencyKeyReused: The key stands for another request.
        """
        idempotency = request.idempotency
        if idempotency is None:
            return None
        earlier = await self._executions.find_idempotent(request.project_id, idempotency.key)
        if earlier is not None and earlier.idempotency != idempotency:
            raise IdempotencyKeyReused(earlier.id)
        return earlier

    async def find_settled(self, request: ExecutionRequest) -> Execution | None:
        """As `find`, once it is clear whether what stands under the key is queued or taken back."""
        earlier = await self.find(request)
        if earlier is None or earlier.last_sequence:
            return earlier
        async with self.admitting(request):
            return await self.find_settled_elsewhere(request)

    async def find_settled_elsewhere(self, request: ExecutionRequest) -> Execution | None:
        """As `find`, once another server has queued what stands under the key or taken it back.

        This server is about to queue nothing with the key meanwhile.

        Raises:
            IdempotencyKeyReused: The key stands for another request.
            ServerUnavailable: It takes the other server long.
        """
        earlier = await self.find(request)
        if earlier is None or earlier.last_sequence:
            return earlier
        await self._executions.wait_for_events(earlier.id, 0, ADMIT_SECONDS)
        earlier = await self.find(request)
        if earlier is not None and not earlier.last_sequence:
            raise ServerUnavailable("another server is about to queue an execution with this key")
        return earlier

    def admitting(self, request: ExecutionRequest) -> contextlib.AbstractAsyncContextManager[None]:
        """A block that one request at a time with the same key enters; any without a key."""
        if request.idempotency_key is None:
            return contextlib.nullcontext()
        name = (request.project_id, request.idempotency_key)
        return self._admissions.setdefault(name, asyncio.Lock())
