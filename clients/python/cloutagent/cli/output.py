"""What a command writes: JSON for programs, tables and lines for people.

What others wrote reaches a terminal as plain text only: nothing in it is markup, and nothing controls the terminal.
"""

from __future__ import annotations

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cloutagent.cli.asking import typed
from cloutagent.cli.text import clean, one_line

# What JSON may have in its strings as it is, and a terminal acts on.
_ACTED_ON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Columns of ids and of names that stand for one.
_IDS: Final = frozenset({"execution", "key", "model", "profile", "project"})

Cell = str | Text


class _Console(Console):
    """A console that has a reader who left told by BrokenPipeError, and does not end the process."""

    def on_broken_pipe(self) -> None:
        """Raise it."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes text as it is, and draws on terminals alone, whatever FORCE_COLOR says."""
    stream = sys.stderr if stderr else sys.stdout
    drawn = None if stream is not None and stream.isatty() else False
    return _Console(stderr=stderr, force_terminal=drawn, markup=False, emoji=False, highlight=False)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as REST has it in JSON: zeros and empty lists are there, absent fields are not."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


class Output:
    """Where a command writes.

    Attributes:
        out: Standard output: what was asked for.
        err: Standard error: what is told beside it.
        json: Whether programs read the standard output.
    """

    def __init__(self, *, json: bool = False, out: Console | None = None, err: Console | None = None) -> None:
        self.json = json
        self.out = out or make_console()
        self.err = err or make_console(stderr=True)

    @property
    def live(self) -> bool:
        """Whether a person looks at a terminal that can be drawn on."""
        return not self.json and self.out.is_terminal and not self.out.is_dumb_terminal

    @property
    def asks(self) -> bool:
        """Whether there is somebody to answer questions."""
        return not self.json and typed() and self.err.is_terminal

    def document(self, document: Message | Mapping[str, Any], *, compact: bool = False) -> None:
        """Write JSON: on one line if `compact`, at once in any case."""
        content = as_dict(document) if isinstance(document, Message) else document
        plain = (self.out.encoding or "").lower().replace("-", "") != "utf8"
        written = json.dumps(content, ensure_ascii=plain, indent=None if compact else 2)
        safe = _ACTED_ON.sub(lambda found: f"\\u{ord(found[0]):04x}", written)
        self.out.file.write(safe + "\n")
        self.out.file.flush()

    def line(self, text: Cell = "", style: str | None = None) -> None:
        """Write text that was asked for."""
        self._write(self.out, text, style)

    def note(self, text: Cell, style: str | None = None) -> None:
        """Tell something beside what was asked for."""
        self._write(self.err, text, style)

    def done(self, what: str, name: str) -> None:
        """Tell that something was done; programs get an empty document."""
        if self.json:
            self.document({})
        else:
            self.line(f"{what} {name}")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
        """Write a table: each row on one line, from whose last column a terminal that is too narrow takes the end.

        What is narrower still folds the other columns but those of ids, which are whole in any case: they are copied
        into other commands. Without a terminal nothing is taken or folded. `right` names the columns of numbers.
        """
        cells = [[_cell(cell) for cell in row] for row in rows]
        if not self.out.is_terminal:
            for line in _aligned([[Text(name.upper()) for name in columns], *cells]):
                self.out.file.write(line + "\n")
            return
        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for index, column in enumerate(table.columns):
            if columns[index] in _IDS:
                column.no_wrap, column.min_width = True, max((row[index].cell_len for row in cells), default=None)
        for row in cells:
            row[-1].no_wrap, row[-1].overflow = True, "ellipsis"
            table.add_row(*row)
        self.out.print(table)

    def facts(self, facts: Iterable[tuple[str, Cell | None]]) -> None:
        """Write what is known of one thing, a line each; what is None is left out."""
        known = [(name, _cell(value)) for name, value in facts if value]
        width = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            self._write(self.out, Text.assemble((f"{name:<{width}}  ", "dim"), value), None)

    def _write(self, console: Console, text: Cell, style: str | None) -> None:
        content = text if isinstance(text, Text) else Text(clean(text))
        if style is not None:
            content.stylize(style)
        console.print(content, soft_wrap=True)


def _cell(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(one_line(cell))


def _aligned(rows: Sequence[Sequence[Text]]) -> Iterable[str]:
    widths = [max(cell_len(row[column].plain) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        padded = (cell.plain + " " * (width - cell_len(cell.plain)) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
