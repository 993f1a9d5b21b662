"""Positions in time-ordered lists, and the opaque page tokens that carry them."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from cloutagent_server.domain.errors import InvalidRequest

PROJECTS: Final = "projects"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_POSITION: Final = re.compile(r"[0-9]{15}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def position(created_at: datetime, identifier: str) -> str:
    """Where a record stands among others: text that sorts by creation time in milliseconds, then by identifier."""
    return f"{(created_at - _EPOCH) // _MILLISECOND:015d}-{identifier}"


def position_before(time: datetime) -> str:
    """What sorts in front of every record that was created at `time` or later."""
    return f"{max(0, (time - _EPOCH) // _MILLISECOND):015d}"


def position_after(time: datetime) -> str:
    """What sorts behind every record that was created at `time` or earlier."""
    return f"{max(0, (time - _EPOCH) // _MILLISECOND):015d}~"


def identifier_at(place: str) -> str:
    """The identifier in a position."""
    return place[16:]


def is_position(text: str) -> bool:
    """Whether `text` has the form that `position` gives."""
    return _POSITION.fullmatch(text) is not None


def to_token(scope: str, place: str) -> str:
    """The token that continues a list after `place`. `scope` is PROJECTS, or the project whose executions they are."""
    return base64.urlsafe_b64encode(f"{scope}:{place}".encode()).decode().rstrip("=")


def from_token(scope: str, token: str | None) -> str | None:
    """The position that `to_token` put in; None for no token.

    Raises:
        InvalidRequest: The token is malformed or belongs to another list.
    """
    if token is None:
        return None
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    found, _, place = text.partition(":")
    if found != scope or not is_position(place):
        raise InvalidRequest.of("pageToken", "is not a token of this list")
    return place
