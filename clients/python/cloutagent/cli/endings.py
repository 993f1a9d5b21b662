"""How a command ends: its exit code, and the line that says why."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from cloutagent import errors
from cloutagent.cli.text import one_line


class ExitCode(IntEnum):
    """What the shell sees. The numbers are part of the interface; `docs/command-line.md` has the table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DENIED = 3
    NOT_FOUND = 4
    LIMIT = 5
    UNAVAILABLE = 6
    CONFLICT = 7
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked for.

    Attributes:
        message: Why, for people.
        code: The exit code.
    """

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


# The first class that fits counts: an error may be of several.
_CODES: Final[Sequence[tuple[type[errors.CloutAgentError], ExitCode]]] = (
    (errors.BudgetExceededError, ExitCode.LIMIT),
    (errors.ExecutionTimedOutError, ExitCode.LIMIT),
    (errors.ConfigurationError, ExitCode.USAGE),
    (errors.InvalidArgumentError, ExitCode.USAGE),
    (errors.AuthenticationError, ExitCode.DENIED),
    (errors.PermissionDeniedError, ExitCode.DENIED),
    (errors.NotFoundError, ExitCode.NOT_FOUND),
    (errors.ResourceExhaustedError, ExitCode.UNAVAILABLE),
    (errors.UnavailableError, ExitCode.UNAVAILABLE),
    (errors.DeadlineExceededError, ExitCode.UNAVAILABLE),
    (errors.CallCancelledError, ExitCode.UNAVAILABLE),
    (errors.AlreadyExistsError, ExitCode.CONFLICT),
    (errors.ConflictError, ExitCode.CONFLICT),
    (errors.FailedPreconditionError, ExitCode.CONFLICT),
    (errors.OutOfRangeError, ExitCode.CONFLICT),
)

_ADVICE: Final[Sequence[tuple[type[errors.CloutAgentError], str]]] = (
    (errors.NoProjectError, "name it with --project, or CLOUTAGENT_PROJECT_ID"),
    (errors.AuthenticationError, "`cloutagent login` stores a key, CLOUTAGENT_API_KEY gives one"),
    (errors.UnavailableError, "`cloutagent doctor` tells what is wrong"),
)


def exit_code(error: errors.CloutAgentError) -> ExitCode:
    """The exit code of a command that ends with this error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def told(error: errors.CloutAgentError) -> str:
    """The error on one line: what is wrong, the faulty fields, the request's id, what to do."""
    parts = [str(error)]
    if isinstance(error, errors.InvalidArgumentError):
        # The server's own message has them, too.
        missing = [fault for fault in error.violations if fault.description not in error.message]
        parts += [f"{fault.field or 'request'} {fault.description}" for fault in missing]
    if isinstance(error, errors.OutOfRangeError) and error.first_sequence is not None:
        parts.append(f"what is kept begins with --from-event {error.first_sequence}")
    parts += [advice for kind, advice in _ADVICE if isinstance(error, kind)][:1]
    return one_line("; ".join(parts))
