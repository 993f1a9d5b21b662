"""Prompts as templates: `{{name}}`, `{{secret:NAME}}` and a few names of our own, filled in once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloutagent_server.domain.errors import FieldViolation, InvalidRequest

MAX_FILLED_CHARACTERS: Final = 4 * 1024 * 1024
RESERVED: Final = ("timestamp", "execution_id", "project_name")
_MARK: Final = re.compile(r"\{\{\{\{|\{\{((?:(?!\{\{|\}\}).)*)(\}\})?", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SEALED: Final = "secret:"
_MAX_FAULTS: Final = 10


class TooLong(Exception):
    """A text would be too long once its references are filled in."""


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text. `parts` alternates literal text and references, starting and ending with text.

    Attributes:
        parts: The pieces.
        variables: Names that `{{name}}` refers to, those of our own included.
        secrets: Names that `{{secret:NAME}}` refers to.
    """

    parts: tuple[str, ...]
    variables: frozenset[str]
    secrets: frozenset[str]

    def fill(self, variables: Mapping[str, str], secrets: Mapping[str, str]) -> str:
        """The text with every reference replaced by its value. A value is never expanded again.

        Raises:
            KeyError: A value is missing.
            TooLong: It would have more than 4,194,304 characters.
        """
        filled = list(self.parts)
        length = sum(map(len, filled[::2]))
        for index in range(1, len(filled), 2):
            name = filled[index]
            filled[index] = secrets[name.removeprefix(_SEALED)] if name.startswith(_SEALED) else variables[name]
            length += len(filled[index])
            if length > MAX_FILLED_CHARACTERS:
                raise TooLong
        return "".join(filled)


def parse(text: str, field: str) -> Template:
    """Parse a prompt. `{{{{` stands for a literal `{{`.

    Raises:
        InvalidRequest: A `{{` opens nothing that can be filled in; each violation names `field`. Ten are told at most.
    """
    parts: list[str] = []
    variables: set[str] = set()
    secrets: set[str] = set()
    faults: list[FieldViolation] = []
    literal, position = "", 0
    for mark in _MARK.finditer(text):
        literal += text[position : mark.start()]
        position = mark.end()
        if mark.group(0) == "{{{{":
            literal += "{{"
            continue
        reference = (mark.group(1) or "").strip()
        is_secret = reference.startswith(_SEALED)
        name = reference.removeprefix(_SEALED)
        if mark.group(2) is None or _NAME.fullmatch(name) is None:
            shown = mark.group(0)[:40]
            faults.append(FieldViolation(field, f"{shown!r} is no variable; write {{{{{{{{ for a literal {{{{"))
            if len(faults) == _MAX_FAULTS:
                break
            continue
        (secrets if is_secret else variables).add(name)
        parts += [literal, reference]
        literal = ""
    if faults:
        raise InvalidRequest(faults)
    parts.append(literal + text[position:])
    return Template(tuple(parts), frozenset(variables), frozenset(secrets))
