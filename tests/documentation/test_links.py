"""No link of the documentation leads nowhere, and every page can be found from the index."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest

from tests.documentation.snippets import COMING, PAGES, REPOSITORY

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def prose(page: str) -> str:
    """A page without its snippets."""
    return _FENCED.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))


def links(page: str) -> list[tuple[str, str]]:
    """Where a page leads within the repository: path and heading."""
    found = []
    for target in _LINK.findall(prose(page)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        resolved = (REPOSITORY / page).parent.joinpath(path).resolve() if path else REPOSITORY / page
        found.append((resolved.relative_to(REPOSITORY).as_posix(), heading))
    return found


def headings(page: str) -> set[str]:
    """The names by which links lead to a page's headings."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    for path, heading in links(page):
        if path in COMING and not (REPOSITORY / path).exists():
            continue
        assert (REPOSITORY / path).exists(), path
        if heading:
            assert heading in headings(path), f"{path}#{heading}"


def test_every_page_is_in_the_index() -> None:
    for index in (PurePosixPath("docs/README.md"), PurePosixPath("examples/README.md")):
        linked = {path for path, _ in links(str(index))}
        pages = {page for page in PAGES if PurePosixPath(page).is_relative_to(index.parent)} - {str(index)}
        assert pages <= linked, index
