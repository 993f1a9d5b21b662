"""API keys between protobuf and domain."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1 import project_pb2
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.transport.key_codec import expiry_from_proto, key_to_proto
from tests.support import builders


def test_a_key_shows_neither_digest_nor_hash() -> None:
    key = builders.api_key(expires_at=builders.at(1000))
    assert json_format.MessageToDict(key_to_proto(key, builders.at(2000))) == {
        "id": key.id,
        "name": "ci",
        "createdAt": "2026-01-31T12:00:00Z",
        "expiresAt": "2026-01-31T12:00:01Z",
        "lastUsedAt": "2026-01-31T12:00:02Z",
    }
    assert set(json_format.MessageToDict(key_to_proto(builders.api_key()))) == {"id", "name", "createdAt"}


def test_an_expiry_is_stored_in_whole_milliseconds() -> None:
    assert expiry_from_proto(project_pb2.CreateApiKeyRequest()) is None
    request = project_pb2.CreateApiKeyRequest(expires_at=Timestamp(seconds=253402300799, nanos=999999999))
    assert expiry_from_proto(request) == datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (253402300800, 0), (4102444800, -5), (4102444800, 2**30)])
def test_what_is_no_point_in_time_is_refused(seconds: int, nanos: int) -> None:
    request = project_pb2.CreateApiKeyRequest(expires_at=Timestamp(seconds=seconds, nanos=nanos))
    with pytest.raises(InvalidRequest) as caught:
        expiry_from_proto(request)
    assert caught.value.violations[0].field == "expiresAt"
