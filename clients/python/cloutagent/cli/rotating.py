"""Replacing a key. Both keys count for as long as the old one goes on working, and a project has room for so many."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cloutagent.errors import ApiError

if TYPE_CHECKING:
    from cloutagent.cli.session import Session
    from cloutagent.types import NewApiKey

# Who loses the answer to the call has a key still.
DEFAULT_GRACE: Final = timedelta(minutes=1)
_AT_ONCE: Final = timedelta(0)
_NO_ROOM: Final = "API_KEY_LIMIT_REACHED"


def replaced(session: Session, grace: timedelta | None, *, key_id: str | None = None) -> NewApiKey:
    """Replace a key, by default the one in use. Raises ApiError, with what to do about it."""
    try:
        return session.client.keys.rotate(key_id=key_id, grace_period=grace)
    except ApiError as error:
        if error.reason == _NO_ROOM:
            error.message += (
                ", or end the old one at once by --grace-period 0s; `cloutagent key list` and "
                "`cloutagent key revoke` make room"
            )
        elif error.reason is None and not grace:
            error.message += "; the old key may have ended all the same: another key, or the admin's, makes a new one"
        raise


def replaced_by_default(session: Session) -> tuple[NewApiKey, bool]:
    """Replace the key in use, which goes on working for a minute if there is room for it. Returns whether it does, too.

    Raises ApiError.
    """
    try:
        return session.client.keys.rotate(grace_period=DEFAULT_GRACE), True
    except ApiError as error:
        # The server says this alone of what it has not done for want of room: no other failure is tried again, since
        # the key may have been replaced.
        if error.reason != _NO_ROOM:
            raise
    return replaced(session, _AT_ONCE), False
