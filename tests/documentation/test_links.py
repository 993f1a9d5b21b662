"""No link of the documentation leads nowhere, and every page can be found from the index."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from scripts.proto_image import REPOSITORY
from scripts.reference.markdown import anchor
from tests.documentation.snippets import PAGES


def pages() -> list[Path]:
    """Every page that git tracks, or would."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [REPOSITORY / name for name in sorted(names) if (REPOSITORY / name).exists()]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Where in a page a link may lead to: its headings, numbered where they are the same."""
    found: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE):
        found[anchor(heading)] += 1
    return {name if number == 0 else f"{name}-{number}" for name, times in found.items() for number in range(times)}


def links(page: Path) -> list[str]:
    """Where a page leads within the repository."""
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text(encoding="utf-8")))
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]


def dead(page: Path) -> list[str]:
    """Those of them that lead nowhere."""
    found = []
    for link in links(page):
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# What it is: `a`\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n")
    page.write_text(
        "[a](other.md) [b](other.md#what-it-is-a) [c](other.md#twice-1) [d](https://example.org/x) `[e](gone.md)`\n"
        "[f](gone.md) [g](other.md#twice-2) [h](other.md#no-heading) [i](#here) [j\nk](../gone/)\n"
    )
    assert dead(page) == ["gone.md", "other.md#twice-2", "other.md#no-heading", "#here", "../gone/"]
    assert len(pages()) > 40


@pytest.mark.parametrize("folder", ["docs", "examples"])
def test_every_page_is_in_the_index(folder: str) -> None:
    index = REPOSITORY / folder / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    missing = {page for page in map(REPOSITORY.joinpath, PAGES) if page.is_relative_to(index.parent)} - {index, *linked}
    assert missing == set()
