"""What was released: the headings of the changelog that have a date, each with its tag in git."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEADING: Final = re.compile(r"^## (.*)$", re.MULTILINE)
_VERSION: Final = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - (unreleased|\d{4}-\d{2}-\d{2})")


class ChangelogUnreadable(Exception):
    """A heading of the changelog is not `## [X.Y.Z] - YYYY-MM-DD` or `## [X.Y.Z] - unreleased`."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version that the changelog tells of.

    Attributes:
        number: Its three numbers.
        released: Whether its heading has a date.
    """

    number: tuple[int, int, int]
    released: bool

    def __str__(self) -> str:
        return ".".join(map(str, self.number))

    @property
    def tag(self) -> str:
        """The tag of the commit that it was released from."""
        return f"v{self}"


def versions(changelog: str) -> Sequence[Version]:
    """The versions of a changelog, newest first.

    Raises:
        ChangelogUnreadable: A heading is malformed, or the versions do not go down.
    """
    found = []
    for heading in _HEADING.findall(changelog):
        said = _VERSION.fullmatch(heading)
        if said is None:
            raise ChangelogUnreadable(heading)
        found.append(Version((int(said[1]), int(said[2]), int(said[3])), said[4] != "unreleased"))
    numbers = [each.number for each in found]
    if not found or numbers != sorted(set(numbers), reverse=True):
        raise ChangelogUnreadable("the versions do not go down")
    return found


def earlier(changelog: str, current: str) -> Sequence[Version]:
    """The versions before `current`, newest first. All of them must have been released.

    Raises:
        ChangelogUnreadable: One has no date, or the newest one is not `current`.
    """
    newest, *before = versions(changelog)
    if str(newest) != current:
        raise ChangelogUnreadable(f"the newest version is {newest}, not {current}")
    if undated := [str(each) for each in before if not each.released]:
        raise ChangelogUnreadable(f"versions before the newest have no date: {', '.join(undated)}")
    return before


def tags(repository: Path) -> set[str]:
    """The tags `vX.Y.Z` of a repository."""
    names = _git(repository, "tag", "--list", "v*").decode().split()
    return {name for name in names if re.fullmatch(r"v\d+\.\d+\.\d+", name)}


def committed(repository: Path, file: str) -> str:
    """What a file has at the last commit, without spaces around it."""
    return _git(repository, "show", f"HEAD:{file}").decode().strip()


def extract(repository: Path, revision: str, target: Path) -> None:
    """Write the files of a revision into `target`.

    Raises:
        CalledProcessError: There is no such revision.
    """
    target.mkdir(parents=True)
    archive = _git(repository, "archive", "--format=tar", revision)
    subprocess.run(["tar", "--extract", "--directory", str(target)], input=archive, check=True)


def _git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(repository), *arguments], stdout=subprocess.PIPE, check=True).stdout
