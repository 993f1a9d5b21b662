"""What Ctrl-C does while a run is followed."""

from __future__ import annotations

from enum import StrEnum

import typer

from cloutagent.cli.asking import typed_line
from cloutagent.cli.following import interruptible
from cloutagent.cli.output import Output


class OnInterrupt(StrEnum):
    """What Ctrl-C does to the run."""

    ASK = "ask"
    CANCEL = "cancel"
    DETACH = "detach"


class Answer(StrEnum):
    """What becomes of the run."""

    CANCEL = "cancel"
    DETACH = "detach"
    GO_ON = "go on"


_ANSWERS = {"c": Answer.CANCEL, "d": Answer.DETACH, "g": Answer.GO_ON}


def decide(choice: OnInterrupt, output: Output, *, may_ask: bool) -> Answer:
    """What becomes of the run. Who is at a terminal is asked; without one, or at a second Ctrl-C, it is left alone."""
    if choice is not OnInterrupt.ASK:
        return Answer(choice.value)
    if not (may_ask and output.asks):
        return Answer.DETACH
    with interruptible():
        try:
            while True:
                typer.echo("Cancel the run, detach from it, or go on? (c/d/g) [g]: ", nl=False, err=True)
                found = _ANSWERS.get(typed_line().strip().lower()[:1] or "g")
                if found is not None:
                    return found
        except (typer.Abort, KeyboardInterrupt):
            # The line that was asked on has no end yet.
            output.note("")
            return Answer.DETACH
