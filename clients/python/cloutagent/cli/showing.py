"""Showing a run from its first event to its last, or to Ctrl-C."""

from __future__ import annotations

from typing import Final, Protocol, Self

from cloutagent.cli.cancelling import Cancelling
from cloutagent.cli.endings import ExitCode
from cloutagent.cli.following import Following, Signal
from cloutagent.cli.interrupts import Answer, OnInterrupt, decide
from cloutagent.cli.live_view import LiveView
from cloutagent.cli.output import Output
from cloutagent.cli.plain_view import PlainView
from cloutagent.cli.progress import Progress, status_name
from cloutagent.cli.session import Session
from cloutagent.errors import CloutAgentError
from cloutagent.types import Execution, ExecutionEvent

_PATIENCE_SECONDS: Final = 2.0


class View(Protocol):
    """Shows a run."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *raised: object) -> None:
        """Leave the terminal as it was."""

    def show(self, event: ExecutionEvent) -> None:
        """Another event has come."""

    def pause(self) -> None:
        """Let something else write."""

    def resume(self) -> None:
        """Go on."""

    def finish(self) -> None:
        """Tell how the run ended."""


class JsonView:
    """One event as JSON a line."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> JsonView:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def show(self, event: ExecutionEvent) -> None:
        """Another event has come."""
        self._output.document(event, compact=True)

    def pause(self) -> None:
        """Let something else write."""

    def resume(self) -> None:
        """Go on."""

    def finish(self) -> None:
        """The last event has told it."""


def show_run(session: Session, execution: Execution, after_sequence: int, on_interrupt: OnInterrupt) -> ExitCode:
    """Show an execution to its end. Returns the exit code of the command.

    Ctrl-C and SIGTERM, a watch that fails and a reader that leaves end the showing and not the run; how to watch on is
    told then.
    """
    output = session.output
    progress = Progress(execution, after_sequence)
    following = Following(session.client, execution.id, after_sequence)
    cancelling = Cancelling()
    try:
        with following.running(), _view(output, progress) as view:
            while not progress.ended:
                item = following.next()
                if item is Signal.END:
                    progress.settle(session.client.executions.get(execution.id))
                    break
                if isinstance(item, Signal):
                    view.pause()
                    answer = decide(on_interrupt, output, may_ask=item is Signal.INTERRUPT)
                    if answer is Answer.CANCEL:
                        on_interrupt = OnInterrupt.DETACH
                        answer = Answer.GO_ON if cancelling.ask(session, execution.id) else Answer.DETACH
                    if answer is Answer.DETACH:
                        _tell_what_becomes_of_it(session, progress, cancelling)
                        return ExitCode.INTERRUPTED
                    view.resume()
                    continue
                progress.take(item)
                view.show(item)
            view.finish()
    except (CloutAgentError, BrokenPipeError, KeyboardInterrupt):
        if not progress.ended:
            _tell_what_becomes_of_it(session, progress, cancelling)
        raise
    return ExitCode.INTERRUPTED if cancelling.taken else progress.exit_code


def _view(output: Output, progress: Progress) -> View:
    if output.json:
        return JsonView(output)
    return LiveView(output.out, progress) if output.live else PlainView(output, progress)


def _tell_what_becomes_of_it(session: Session, progress: Progress, cancelling: Cancelling) -> None:
    """Say how the run stands, as the server has it now, and how to watch it on."""
    id_, last = progress.execution_id, progress.last_sequence
    try:
        execution = cancelling.ended or session.client.executions.get(id_, timeout=_PATIENCE_SECONDS)
    except CloutAgentError:
        becomes = cancelling.becomes(seen=False)
    else:
        if execution.HasField("finished_at"):
            session.output.note(f"execution {id_} has ended: {status_name(execution)}")
            return
        becomes = cancelling.becomes(seen=True)
        # The watch may have been asked for from behind the last event.
        last = min(last, execution.last_sequence)
    given = {"--profile": session.options.profile, "--address": session.options.address}
    options = "".join(f" {name} {value}" for name, value in given.items() if value)
    session.output.note(f"the run {becomes}; watch it with: cloutagent watch {id_} --from-event {last + 1}{options}")
