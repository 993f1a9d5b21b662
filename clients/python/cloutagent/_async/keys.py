"""API keys of a project."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cloutagent._requests import message, milliseconds, timestamp
from cloutagent.types import ApiKey, NewApiKey
from cloutagent.v1 import project_pb2

if TYPE_CHECKING:
    from cloutagent._async.transport import AsyncTransport


class AsyncKeys:
    """API keys of a project, 20 at most. `project_id` may be left out; see `Client`. `timeout` is in seconds."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(
        self,
        *,
        name: str,
        expires_at: datetime | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> NewApiKey:
        """Create a further key. `expires_at` has a time zone; without it the key does not expire."""
        self._transport.configuration.require_confidential("a new API key")
        request = message(
            project_pb2.CreateApiKeyRequest,
            project_id=await self._transport.project(project_id, timeout),
            name=name,
            expires_at=timestamp(expires_at),
        )
        answer = await self._transport.call(self._transport.connection.projects.CreateApiKey, request, timeout)
        return NewApiKey(answer.key, answer.api_key)

    async def list(self, *, project_id: str | None = None, timeout: float | None = None) -> Sequence[ApiKey]:
        """The keys that work, the default key first. Never a key itself."""
        request = project_pb2.ListApiKeysRequest(project_id=await self._transport.project(project_id, timeout))
        method = self._transport.connection.projects.ListApiKeys
        return tuple((await self._transport.call(method, request, timeout, repeatable=True)).keys)

    async def rotate(
        self,
        *,
        key_id: str | None = None,
        grace_period: timedelta | None = None,
        project_id: str | None = None,
        timeout: float | None = None,
    ) -> NewApiKey:
        """Replace a key, by default the one that the client uses, which goes on working for `grace_period` (none).

        The client goes on with the old key: make a new one.
        """
        self._transport.configuration.require_confidential("a new API key")
        request = project_pb2.RotateApiKeyRequest(
            project_id=await self._transport.project(project_id, timeout),
            key_id=key_id,
            grace_period=None if grace_period is None else milliseconds(grace_period),
        )
        answer = await self._transport.call(self._transport.connection.projects.RotateApiKey, request, timeout)
        return NewApiKey(answer.key, answer.api_key)

    async def revoke(self, key_id: str, *, project_id: str | None = None, timeout: float | None = None) -> None:
        """End a key at once."""
        request = project_pb2.RevokeApiKeyRequest(
            project_id=await self._transport.project(project_id, timeout), key_id=key_id
        )
        await self._transport.call(self._transport.connection.projects.RevokeApiKey, request, timeout)
