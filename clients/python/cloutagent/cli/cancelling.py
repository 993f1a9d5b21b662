"""A cancel that is asked for while a run is followed, and what is known of it then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cloutagent import errors
from cloutagent.cli.following import interruptible

if TYPE_CHECKING:
    from cloutagent.cli.session import Session
    from cloutagent.types import Execution

# Where one of these has a reason, it is the server that says so, and it has done nothing.
_REFUSALS: Final = (
    errors.AuthenticationError,
    errors.InvalidArgumentError,
    errors.NotFoundError,
    errors.PermissionDeniedError,
    errors.RateLimitedError,
)


class Cancelling:
    """The cancel of one run. At first it is not asked for.

    Attributes:
        taken: Whether the server has said that it cancels the run.
        ended: The run after its end, if the server's answer has that; else None.
    """

    def __init__(self) -> None:
        self.taken = False
        self.ended: Execution | None = None
        self._uncertain = False

    def ask(self, session: Session, execution_id: str) -> bool:
        """Cancel a run. Returns whether it was answered: not if another Ctrl-C came first. Raises CloutAgentError."""
        session.output.note("cancelling …")
        with interruptible():
            self._uncertain = True
            try:
                answer = session.client.executions.cancel(execution_id)
            except KeyboardInterrupt:
                return False
            except errors.CloutAgentError as error:
                self._uncertain = not _changed_nothing(error)
                raise
            self.taken = True
            self.ended = answer if answer.HasField("finished_at") else None
        return True

    def becomes(self, *, seen: bool) -> str:
        """What becomes of the run, for people. `seen`: the server has just shown that it has not ended."""
        if self.taken:
            return "is being cancelled"
        if self._uncertain:
            return "may go on, or may be cancelled"
        return "goes on" if seen else "may go on"


def _changed_nothing(error: errors.CloutAgentError) -> bool:
    """Whether a cancel that failed surely did nothing: it was not sent, or refused. Any other answer may hide one."""
    if not isinstance(error, errors.ApiError):
        return True
    return error.reason is not None and isinstance(error, _REFUSALS)
