"""API keys between protobuf and domain."""

from __future__ import annotations

from datetime import UTC, datetime

from cloutagent.v1 import project_pb2
from cloutagent_server.domain.api_key import ApiKey
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.transport.project_codec import timestamp


def key_to_proto(key: ApiKey, last_used_at: datetime | None = None) -> project_pb2.ApiKey:
    """The protobuf form of a key: neither the key itself nor what it is checked against."""
    return project_pb2.ApiKey(
        id=key.id,
        name=key.name,
        created_at=timestamp(key.created_at),
        expires_at=None if key.expires_at is None else timestamp(key.expires_at),
        last_used_at=None if last_used_at is None else timestamp(last_used_at),
    )


def expiry_from_proto(request: project_pb2.CreateApiKeyRequest) -> datetime | None:
    """When the key that a request asks for shall expire, in whole milliseconds; None if it shall not.

    Raises:
        InvalidRequest: It is no time between the years 1 and 9999, as only a binary message can say.
    """
    if not request.HasField("expires_at"):
        return None
    try:
        time = request.expires_at.ToDatetime(UTC)
    except ValueError:
        raise InvalidRequest.of("expiresAt", "is not a point in time") from None
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
