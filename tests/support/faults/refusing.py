"""A medium that refuses one call, or every call from one on, or writes less than it was given."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.faults.syscalls import Call, without_syncing

REFUSALS: Final[Mapping[str, int]] = {
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EACCES": errno.EACCES,
    "EMFILE": errno.EMFILE,
}
SHORT: Final = ("short", "short, then ENOSPC")
FAULTS: Final = (*REFUSALS, *SHORT)
KINDS_OF_REFUSAL: Final = (*REFUSALS, "short writes")


@dataclass
class Refusal:
    """A handler that lets the call of this number fail.

    Attributes:
        number: Of the call, from 1; 0 for none.
        fault: The name of an error; "short" for a write that takes half of what it is given; "short, then ENOSPC" for
            one after which nothing more can be written.
        lasting: Whether every later call that changes something fails too.
        calls: What was called so far, by name.
        refused: The name of the call that failed first, with its path; None if none did.
    """

    number: int
    fault: str
    lasting: bool = False
    calls: list[str] = field(default_factory=list)
    refused: str | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, call: Call) -> Any:
        with self._guard:
            self.calls.append(call.name)
            if len(self.calls) == self.number:
                self.refused = f"{call.name} {call.path}"
                if self.fault in SHORT:
                    return call.write_half()
                raise self._error(self.fault, call)
            last_writes = self.fault == "short, then ENOSPC" and call.name == "write"
            if self.refused is not None and ((self.lasting and call.changes) or last_writes):
                raise self._error("ENOSPC" if last_writes else self.fault, call)
            return without_syncing(call)

    @property
    def kind(self) -> str:
        """Which of `KINDS_OF_REFUSAL` it is."""
        return "short writes" if self.fault in SHORT else self.fault

    @property
    def text(self) -> str | None:
        """What the error that reaches the caller has to name; None if the operation has to succeed."""
        if self.fault == "short":
            return None
        return os.strerror(REFUSALS.get(self.fault, errno.ENOSPC))

    @staticmethod
    def _error(fault: str, call: Call) -> OSError:
        code = REFUSALS[fault]
        return OSError(code, os.strerror(code), call.path)
