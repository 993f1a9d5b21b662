"""API keys of a project: what is kept of them, and what creating, rotating and revoking make of a project's keys.

A project's keys are a tuple, the default key first. A key that has expired counts as gone: every change leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cloutagent_server.domain.errors import AccessDenied, ApiKeyInvalid, ApiKeyLimitReached, ApiKeyNotFound, LastApiKey
from cloutagent_server.domain.project import KeyCredential

DEFAULT_KEY_NAME: Final = "default"
MAX_KEYS: Final = 20

ApiKeys = tuple["ApiKey", ...]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without the key itself.

    Attributes:
        id: Identifier. Stands for the key in logs.
        name: Name for people; need not be unique.
        credential: What the key is found by and checked against.
        created_at: When it was created.
        expires_at: From when on it does not work; None if it does not expire.
        in_grace: Whether another key has replaced it, so that it works only until its grace is over.
    """

    id: str
    name: str
    credential: KeyCredential
    created_at: datetime
    expires_at: datetime | None = None
    in_grace: bool = False

    def works_at(self, time: datetime) -> bool:
        """Whether the key has not expired at this time."""
        return self.expires_at is None or time < self.expires_at


def working(keys: Sequence[ApiKey], now: datetime) -> ApiKeys:
    """The keys that have not expired."""
    return tuple(key for key in keys if key.works_at(now))


def check_may_create(keys: Sequence[ApiKey], actor_id: str, expires_at: datetime | None, now: datetime) -> None:
    """Make sure that the key `actor_id` may create one with this expiry: none that outlives it.

    Raises:
        AccessDenied: It may not.
        ApiKeyInvalid: It is gone since the call came.
    """
    actor = _actor(keys, actor_id, now)
    if actor.expires_at is not None and (expires_at is None or expires_at > actor.expires_at):
        raise AccessDenied("the API key expires, so a key that it creates must expire no later than itself")


def check_may_end(keys: Sequence[ApiKey], actor_id: str, key_id: str | None, now: datetime) -> None:
    """Make sure that the key `actor_id` may rotate or revoke `key_id`: if it expires, itself alone.

    Raises:
        AccessDenied: It may not.
        ApiKeyInvalid: It is gone since the call came.
    """
    if _actor(keys, actor_id, now).expires_at is not None and key_id != actor_id:
        raise AccessDenied("the API key expires, so it can rotate and revoke no key but itself")


def added(keys: Sequence[ApiKey], key: ApiKey, now: datetime) -> ApiKeys:
    """The keys with one more. Raises ApiKeyLimitReached."""
    return _limited((*working(keys, now), key))


def rotated(
    keys: Sequence[ApiKey], key_id: str | None, new_id: str, credential: KeyCredential, grace: timedelta, now: datetime
) -> ApiKeys:
    """The keys with a new one in place of `key_id` (None: the default key), under its name and with its expiry.

    The old key goes to the end and expires when the grace is over, or when it would have anyway if that is sooner;
    without a grace it is gone.

    Raises:
        ApiKeyNotFound: There is no such key.
        ApiKeyLimitReached: The old key and the new one together are one too many.
    """
    standing = working(keys, now)
    old = _found(standing, standing[0].id if key_id is None and standing else key_id or "")
    new = ApiKey(new_id, old.name, credential, created_at=now, expires_at=old.expires_at)
    kept = tuple(new if key is old else key for key in standing)
    if not grace:
        return kept
    end = now + grace
    end = end if old.expires_at is None else min(end, old.expires_at)
    return _limited((*kept, replace(old, expires_at=end, in_grace=True)))


def revoked(keys: Sequence[ApiKey], key_id: str, may_be_last: bool, now: datetime) -> ApiKeys:
    """The keys without one.

    Raises:
        ApiKeyNotFound: There is no such key.
        LastApiKey: It is the last one, and that may not be revoked.
    """
    standing = working(keys, now)
    old = _found(standing, key_id)
    if len(standing) == 1 and not may_be_last:
        raise LastApiKey(key_id)
    return tuple(key for key in standing if key is not old)


def _actor(keys: Sequence[ApiKey], actor_id: str, now: datetime) -> ApiKey:
    """The key that manages keys, as it stands when they change: later than when the call came."""
    actor = next((key for key in working(keys, now) if key.id == actor_id), None)
    if actor is None:
        raise ApiKeyInvalid
    if actor.in_grace:
        raise AccessDenied("the API key was replaced and is in its grace period: use the new key to manage keys")
    return actor


def _found(keys: Sequence[ApiKey], key_id: str) -> ApiKey:
    for key in keys:
        if key.id == key_id:
            return key
    raise ApiKeyNotFound(key_id)


def _limited(keys: ApiKeys) -> ApiKeys:
    if len(keys) > MAX_KEYS:
        raise ApiKeyLimitReached(MAX_KEYS)
    return keys
