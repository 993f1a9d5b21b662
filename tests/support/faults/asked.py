"""The runs that a `Stand` has started: what they do, and what their callers know of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

TERMINAL: Final = ("completed", "failed", "cancelled")
STAGES: Final = ("queued", "starting", "calling", "in a tool", "ending")

_TODOS: Final = json.dumps({"todos": [{"content": "c", "status": "pending", "activeForm": "f"}]})

Script = Callable[[str, str], str]


def _streams(mark: str, _: str) -> str:
    return f"{mark} [[rate: 40/s]] [[tokens: 50]]"


def _says(mark: str, _: str) -> str:
    return f"{mark} [[say: that is all]]"


def _thinks(mark: str, _: str) -> str:
    return f"{mark} [[delay: 700ms]] [[say: after a while]]"


def _plans(mark: str, _: str) -> str:
    return f"{mark} [[tool: TodoWrite {_TODOS}]] {mark} [[tool: TodoWrite {_TODOS}]] {mark} [[say: planned]]"


def _sleeps(mark: str, seconds: str) -> str:
    command = json.dumps({"command": f"setsid sleep {seconds} & sleep {seconds}"})
    return f"{mark} [[tool: Bash {command}]] {mark} [[say: awake]]"


def _lasts(mark: str, _: str) -> str:
    return f"{mark} [[say: on it]] [[silence]]"


SCRIPTS: Final[dict[str, Script]] = {
    "streams": _streams,
    "says": _says,
    "thinks": _thinks,
    "plans": _plans,
    "sleeps": _sleeps,
    "lasts": _lasts,
}
ENDLESS: Final = ("sleeps", "lasts")


@dataclass(slots=True)
class Run:
    """One execution, as its caller knows it.

    Attributes:
        key: Its idempotency key.
        mark: The input tokens that the model tells for each of its calls, for it alone.
        id: None until a server has acknowledged it.
        asking: Whether a start is under way.
        seen: Its events as they came over the wire, from the first.
    """

    script: str
    prompt: str
    key: str
    mark: int
    id: str | None = None
    asking: bool = False
    seen: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return bool(self.kinds) and self.kinds[-1] in TERMINAL

    @property
    def called(self) -> bool:
        """Whether the model has told it anything."""
        return "token_usage" in self.kinds

    @property
    def stage(self) -> str:
        """What it was doing when its last event came. Places of those that wait change, too."""
        last = self.kinds[-1] if self.kinds else "queued"
        if last in ("queued", *TERMINAL):
            return last
        if last == "tool_use":
            return "in a tool"
        if last == "started":
            return "starting"
        calls = 1 + self.prompt.count("[[tool:")
        return "ending" if self.kinds.count("tool_result") == calls - 1 and "message" in self.kinds[-2:] else "calling"
