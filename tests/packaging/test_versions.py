"""There is one version, in `VERSION`: whatever tells one tells that, and each release before it has its tag."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import cloutagent
import cloutagent_server
from scripts.packaging.build import REPOSITORY
from scripts.packaging.npm import PACKAGE
from scripts.packaging.releases import ChangelogUnreadable, committed, earlier, extract, tags, versions

VERSION = (REPOSITORY / "VERSION").read_text().strip()
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_version_is_three_numbers() -> None:
    assert re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", VERSION)


def test_the_changelog_begins_with_this_version_and_all_before_it_are_released() -> None:
    assert str(versions(CHANGELOG)[0]) == VERSION
    assert all(version.released for version in earlier(CHANGELOG, VERSION))


def test_tags_and_dates_in_the_changelog_belong_together() -> None:
    released = {version.tag for version in versions(CHANGELOG) if version.released}
    assert tags(REPOSITORY) <= released, "a tag has no heading with a date"
    before = {version.tag for version in earlier(CHANGELOG, VERSION)}
    assert before <= tags(REPOSITORY), "the tag of a release is not here: git fetch --tags"


def test_the_packages_tell_this_version() -> None:
    assert cloutagent.__version__ == cloutagent_server.__version__ == VERSION


def test_the_npm_package_has_this_version() -> None:
    for file in ("package.json", "package-lock.json"):
        assert json.loads((REPOSITORY / PACKAGE / file).read_text(encoding="utf-8"))["version"] == VERSION


def test_what_was_released_is_read_from_the_changelog() -> None:
    text = (
        "# Changelog\n\n## [0.10.0] - unreleased\n\n### Added\n\n## [0.9.1] - 2027-02-03\n\n## [0.9.0] - 2027-01-02\n"
    )
    assert [str(each) for each in versions(text)] == ["0.10.0", "0.9.1", "0.9.0"]
    assert [each.tag for each in earlier(text, "0.10.0")] == ["v0.9.1", "v0.9.0"]
    assert earlier("## [0.1.0] - 2027-02-03\n", "0.1.0") == []


@pytest.mark.parametrize(
    "text",
    [
        "# Changelog\n",
        "## [0.2.0] - unreleased\n## [0.1.0] - 3 February\n",
        "## [0.2.0] - unreleased\n## 0.1.0 - 2027-02-03\n",
        "## [0.2.0] - unreleased\n## [0.1.0] - unreleased\n",
        "## [0.2.0] - unreleased\n## [0.3.0] - 2027-02-03\n",
        "## [0.2.0] - 2027-02-03\n## [0.2.0] - 2027-01-03\n",
        "## [0.3.0] - unreleased\n## [0.2.0] - 2027-02-03\n",
    ],
)
def test_a_changelog_that_hides_a_release_is_refused(text: str) -> None:
    with pytest.raises(ChangelogUnreadable):
        earlier(text, "0.2.0")


def test_a_release_is_taken_from_its_tag(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True)

    git("init", "--quiet")
    for version in ("0.1.0", "0.2.0"):
        (repository / "VERSION").write_text(f"{version}\n")
        git("add", ".")
        git("commit", "--quiet", "--message", version)
        git("tag", f"v{version}")
    git("tag", "v0.2.0-rc1")
    (repository / "VERSION").write_text("not committed")

    assert tags(repository) == {"v0.1.0", "v0.2.0"}
    assert committed(repository, "VERSION") == "0.2.0"
    extract(repository, "v0.1.0", tmp_path / "release")
    assert (tmp_path / "release" / "VERSION").read_text() == "0.1.0\n"
    with pytest.raises(subprocess.CalledProcessError):
        extract(repository, "v0.3.0", tmp_path / "missing")
