"""A run in plain lines: the agent's text on the standard output, what happens around it on the standard error."""

from __future__ import annotations

from cloutagent.cli.happenings import happening
from cloutagent.cli.output import Output
from cloutagent.cli.progress import Progress
from cloutagent.cli.summary import summary_line
from cloutagent.cli.text import clean
from cloutagent.types import ExecutionEvent


class PlainView:
    """Writes the text as it comes."""

    def __init__(self, output: Output, progress: Progress) -> None:
        self._output = output
        self._progress = progress
        self._streamed = False
        self._line_open = False

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *raised: object) -> None:
        self._end_line()

    def show(self, event: ExecutionEvent) -> None:
        """Another event has come."""
        match event.kind:
            case "text_delta":
                self._write(event.text_delta.text)
                self._streamed = True
            case "message":
                if not self._streamed:
                    self._write(event.message.text)
                self._streamed = False
                self._end_line()
            case _:
                line = happening(event)
                if line is not None:
                    # Where a program reads the text, nothing is put into it.
                    if self._output.out.is_terminal:
                        self._end_line()
                    self._output.note(line)

    def pause(self) -> None:
        """Let something else write."""
        self._end_line()

    def resume(self) -> None:
        """Go on."""

    def finish(self) -> None:
        """Tell how the run ended."""
        self._end_line()
        self._output.note(summary_line(self._progress))

    def _write(self, text: str) -> None:
        text = clean(text)
        if text:
            self._output.out.file.write(text)
            self._output.out.file.flush()
            self._line_open = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_open:
            self._output.out.file.write("\n")
            self._output.out.file.flush()
            self._line_open = False
