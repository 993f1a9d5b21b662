"""Scripts in files: how the local model answers prompts that were written for a real model.

A file `*.script` has sections. Each begins with lines `when: TEXT` and goes on with directives, up to the next `when:`:

    when: How many orders
    [[tool: mcp__crm__orders {}]] [[say: The CRM says: ]] [[result]]

A section answers every prompt that holds one of its texts. Lines that begin with `#` are comments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloutagent_server.engine.local_model.script import ScriptError, Step, parse

SUFFIX: Final = ".script"
_WHEN: Final = "when:"


@dataclass(frozen=True, slots=True)
class Answer:
    """The steps that answer a prompt with one of these texts in it."""

    texts: tuple[str, ...]
    steps: Sequence[Step]


class ScriptLibrary:
    """The scripts of a folder. Of several that fit a prompt the first is taken, in the order of the files' paths."""

    def __init__(self, answers: Sequence[Answer] = ()) -> None:
        self._answers = tuple(answers)

    @classmethod
    def read(cls, folder: Path) -> ScriptLibrary:
        """The scripts of all files `*.script` in a folder and in those below it.

        Raises:
            ScriptError: A file is wrong; the message names it.
            OSError: A file or the folder cannot be read.
        """
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder of scripts")
        answers: list[Answer] = []
        for path in sorted(folder.rglob(f"*{SUFFIX}")):
            try:
                answers += sections(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ScriptError(f"{path}: {error}") from error
        return cls(answers)

    def answer(self, prompt: str) -> Sequence[Step]:
        """The steps that answer this prompt; none if no script fits."""
        found = (answer.steps for answer in self._answers if any(text in prompt for text in answer.texts))
        return next(found, ())


def sections(text: str) -> list[Answer]:
    """The sections of a file.

    Raises:
        ScriptError: Something stands before the first `when:`, a section says nothing, or a directive is wrong.
    """
    answers: list[Answer] = []
    texts: list[str] = []
    lines: list[str] = []
    for line in [*text.splitlines(), _WHEN]:
        if line.startswith("#"):
            continue
        if not line.startswith(_WHEN):
            lines.append(line)
            continue
        if "".join(lines).strip():
            answers.append(_answer(texts, "\n".join(lines)))
            texts, lines = [], []
        texts.append(line.removeprefix(_WHEN).strip())
    if texts != [""]:
        raise ScriptError(f"when: {texts[0]}: has no directive behind it")
    return answers


def _answer(texts: Sequence[str], directives: str) -> Answer:
    if not texts or "" in texts:
        raise ScriptError("a section begins with a line `when: TEXT`")
    steps = parse(directives)
    if not steps:
        raise ScriptError(f"when: {texts[0]}: has no directive behind it")
    return Answer(tuple(texts), steps)
