"""Whose key a credential is."""

from __future__ import annotations

from cloutagent_server.domain.project import KeyCredential
from cloutagent_server.storage.base import Storage


async def owner_of(storage: Storage, credential: KeyCredential) -> str | None:
    """The project that has this credential; None if none has."""
    owner = await storage.projects.find_key(credential.digest)
    if owner is None:
        return None
    assert owner.key.credential == credential
    return owner.project.id
