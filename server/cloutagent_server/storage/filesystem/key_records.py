"""The JSON form of API keys, and of when they were last used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.api_key import ApiKey
from cloutagent_server.domain.project import KeyCredential
from cloutagent_server.storage.filesystem.schema import DIGEST, Fields, Schema

KEY_USES: Final = Schema(1)


def key_to_json(key: ApiKey) -> dict[str, Any]:
    """The JSON form of an API key."""
    return {
        "id": key.id,
        "name": key.name,
        "digest": key.credential.digest,
        "hash": key.credential.hash,
        "createdAt": timestamps.to_text(key.created_at),
        **({} if key.expires_at is None else {"expiresAt": timestamps.to_text(key.expires_at)}),
        **({"inGrace": True} if key.in_grace else {}),
    }


def key_from_fields(fields: Fields) -> ApiKey:
    """The API key that a document holds. Raises ValueError."""
    key = ApiKey(
        id=fields.identifier("id"),
        name=fields.text("name"),
        credential=KeyCredential(fields.matching("digest", DIGEST), fields.text("hash")),
        created_at=fields.time("createdAt"),
        expires_at=fields.optional(fields.time, "expiresAt"),
        in_grace=fields.optional(fields.truth, "inGrace") or False,
    )
    fields.end()
    return key


def key_uses_to_json(uses: Mapping[str, datetime]) -> dict[str, Any]:
    """The document that holds when keys were last used."""
    return KEY_USES.stamp({"lastUsedAt": {key_id: timestamps.to_text(time) for key_id, time in uses.items()}})


def key_uses_from_json(document: object) -> Mapping[str, datetime]:
    """The times that a document holds, by key id. Raises ValueError."""
    fields = KEY_USES.open(document)
    uses = {key_id: timestamps.from_text(time) for key_id, time in fields.text_map("lastUsedAt").items()}
    fields.end()
    return uses
