"""The JSON form of the digest of a log, in the first line of a trimmed one."""

from __future__ import annotations

from typing import Any

from cloutagent_server.domain.receipt import LogDigest
from cloutagent_server.storage.filesystem.schema import DIGEST, Fields


def digest_to_json(digest: LogDigest) -> dict[str, Any]:
    """The digest of a log."""
    return {
        "sha256": digest.sha256,
        "firstSequence": digest.first_sequence,
        "lastSequence": digest.last_sequence,
        "size": digest.size,
    }


def digest_from_fields(fields: Fields) -> LogDigest:
    """The digest of a log. Raises ValueError."""
    digest = LogDigest(
        fields.matching("sha256", DIGEST),
        fields.whole("firstSequence", least=1),
        fields.whole("lastSequence", least=1),
        fields.whole("size", least=1),
    )
    fields.end()
    return digest
