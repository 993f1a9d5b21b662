"""Every snippet of the documentation does what its page says, or stands in the list of those that cannot be run."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import yaml

from tests.documentation.not_run import ELSEWHERE, NOT_RUN
from tests.documentation.reader import Reader, prints
from tests.documentation.snippets import PAGES, REPOSITORY, Snippet, snippets

RUN = {"sh", "python", "js"}
PARSED: dict[str, Callable[[str], object]] = {"json": json.loads, "yaml": yaml.safe_load}
# Pages of reference: what they show is done with the project of the quickstart.
WITH_PROJECT = {"docs/executions.md", "docs/storage.md", "docs/operations.md"}


def listed(snippet: Snippet) -> bool:
    """Whether it cannot be run."""
    return snippet.name in NOT_RUN.get(snippet.page, {})


def elsewhere(snippet: Snippet) -> str | None:
    """The test of its own that runs it, if there is one."""
    return ELSEWHERE.get(snippet.page) or ELSEWHERE.get(snippet.language)


def played(page: str) -> list[Snippet]:
    """What of a page is run, and the outputs that are held against it."""
    found = []
    skipped = True
    for snippet in snippets(page):
        if snippet.language in RUN or elsewhere(snippet):
            skipped = bool(elsewhere(snippet)) or listed(snippet)
        if not skipped and snippet.language in RUN | {"text"}:
            found.append(snippet)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_snippet_is_run_or_parsed_or_listed(page: str) -> None:
    for snippet in snippets(page):
        if snippet.language in PARSED:
            PARSED[snippet.language](snippet.text)
        elif snippet.language in RUN | ELSEWHERE.keys() and (test := elsewhere(snippet)) and not listed(snippet):
            assert page in (REPOSITORY / test).read_text(), f"{snippet.where}: {test} does not run it"
        else:
            known = snippet.language in RUN | {"", "text"}
            assert known or listed(snippet), f"{snippet.where}: nothing runs {snippet.language}; see not_run.py"


def test_what_is_listed_is_there_and_once() -> None:
    for page, names in NOT_RUN.items():
        there = [snippet.name for snippet in snippets(page)]
        assert {name: there.count(name) for name in names} == dict.fromkeys(names, 1), page


@pytest.mark.e2e
@pytest.mark.parametrize("page", [page for page in PAGES if played(page)])
def test_the_snippets_of_a_page_do_what_it_says(page: str, reader: Callable[[bool], Reader]) -> None:
    reading = reader(page in WITH_PROJECT)
    for snippet in played(page):
        reading.read(snippet)


@pytest.mark.parametrize(
    ("promised", "does"),
    [
        ("one\ntwo", True),
        ("e\nt…\nth", True),
        ("one\n…\nfour", True),
        ("one\n…\ntwo", True),
        ("…", True),
        ("one\nthree", False),
        ("o…o", False),
        ("three\n…\ntwo", False),
        ("t.o", False),
    ],
)
def test_an_output_is_held_against_what_was_printed(promised: str, does: bool) -> None:
    assert prints("one\ntwo\nthree\nfour\n", promised) is does
