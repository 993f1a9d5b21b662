"""The pages that users read, and the snippets that they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    sorted(
        path.relative_to(REPOSITORY).as_posix()
        for pattern in ("*.md", "docs/*.md", "clients/*/README.md", "examples/README.md", "examples/*/README.md")
        for path in REPOSITORY.glob(pattern)
        if path.name != "CHANGELOG.md"
    )
)
_FENCED: Final = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block of a page.

    Attributes:
        page: The page's path in the repository.
        line: Number of the block's first line in it.
        language: What stands behind the fence: `sh`, `python`, `js`, …; `text` is what the snippet before it prints,
            and an empty one is a picture, or the form of a file, which says nothing to run.
        text: The block.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """What stands for the snippet in a list: its first line, without a comment."""
        return self.text.partition("\n")[0].partition("#")[0].strip()

    @property
    def where(self) -> str:
        """For people who look for it."""
        return f"{self.page}:{self.line}"


def snippets(page: str) -> Iterator[Snippet]:
    """The snippets of a page, in its order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for found in _FENCED.finditer(text):
        indent, language, block = found.groups()
        lines = "".join(line.removeprefix(indent) for line in block.splitlines(keepends=True))
        yield Snippet(page, text.count("\n", 0, found.start(3)) + 1, language, lines)
