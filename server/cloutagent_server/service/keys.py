"""The API keys of a project: created, listed, rotated, revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from cloutagent_server.domain import api_key, timestamps
from cloutagent_server.domain.api_key import ApiKey, ApiKeys
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.service.auth import Authenticator, Principal
from cloutagent_server.storage.base import ProjectStorage


class KeyService:
    """Use cases around API keys. `clock` tells when a key expires."""

    def __init__(
        self,
        storage: ProjectStorage,
        authenticator: Authenticator,
        clock: Callable[[], datetime] = timestamps.now,
    ) -> None:
        self._storage = storage
        self._authenticator = authenticator
        self._clock = clock

    async def create(
        self, project_id: str, name: str, expires_at: datetime | None, principal: Principal
    ) -> tuple[ApiKey, str]:
        """Add a key; returns it with the key itself, which nobody can read again.

        Raises:
            ProjectNotFound: There is no such project.
            AccessDenied: The caller's key would be outlived by it, or is in its grace period.
            ApiKeyLimitReached: The project has 20 keys.
        """
        plain = self._authenticator.generate_api_key()
        credential = await self._authenticator.credential_for(plain)
        now = self._clock()
        key = ApiKey(new_id(), name, credential, now, expires_at)

        def change(keys: ApiKeys) -> ApiKeys:
            if not principal.admin:
                api_key.check_may_create(keys, principal.key_id, expires_at, now)
            return api_key.added(keys, key, now)

        await self._storage.change_keys(project_id, change)
        return key, plain

    async def list(self, project_id: str) -> tuple[Sequence[ApiKey], Mapping[str, datetime]]:
        """The keys that work, the default key first, and when they were last used by key id. Raises ProjectNotFound."""
        keys = await self._storage.read_keys(project_id)
        return api_key.working(keys, self._clock()), await self._authenticator.uses.read(project_id)

    async def rotate(
        self, project_id: str, key_id: str | None, grace: timedelta, principal: Principal
    ) -> tuple[ApiKey, str]:
        """Replace a key, which works on until the grace is over; returns the new one with the key itself.

        Without `key_id` it is the caller's key, or for the admin the project's default key.

        Raises:
            ProjectNotFound: There is no such project.
            AccessDenied: The caller's key expires and is not the one to replace, or is in its grace period.
            ApiKeyNotFound: The project has no such key.
            ApiKeyLimitReached: The old key and the new one together are one too many.
        """
        chosen = principal.key_id if key_id is None and not principal.admin else key_id
        plain = self._authenticator.generate_api_key()
        credential = await self._authenticator.credential_for(plain)
        identifier, now = new_id(), self._clock()

        def change(keys: ApiKeys) -> ApiKeys:
            if not principal.admin:
                api_key.check_may_end(keys, principal.key_id, chosen, now)
            return api_key.rotated(keys, chosen, identifier, credential, grace, now)

        keys = await self._storage.change_keys(project_id, change)
        return next(key for key in keys if key.id == identifier), plain

    async def revoke(self, project_id: str, key_id: str, principal: Principal) -> None:
        """Take a key away.

        Raises:
            ProjectNotFound: There is no such project.
            AccessDenied: The caller's key expires and is not the one to revoke, or is in its grace period.
            ApiKeyNotFound: The project has no such key.
            LastApiKey: It is the last one, and the caller is not the admin.
        """
        now = self._clock()

        def change(keys: ApiKeys) -> ApiKeys:
            if not principal.admin:
                api_key.check_may_end(keys, principal.key_id, key_id, now)
            return api_key.revoked(keys, key_id, principal.admin, now)

        await self._storage.change_keys(project_id, change)
