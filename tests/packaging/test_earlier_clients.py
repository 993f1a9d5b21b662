"""The clients of earlier releases work with the server as it is now.

A release is a heading with a date in the changelog. Its client is built from its tag, and takes what it needs from the
environment of the tests. The client of the last commit counts as one, so that something is tried before there is any.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from scripts.demo.stack import Stack
from scripts.packaging.build import CLIENT, REPOSITORY, build_one
from scripts.packaging.releases import committed, earlier, extract, tags
from scripts.packaging.smoke import CLIENT_WHEEL, built
from tests.packaging.conftest import EPOCH

pytestmark = pytest.mark.e2e

VERSION = (REPOSITORY / "VERSION").read_text().strip()
RELEASES = earlier((REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), VERSION)
# Each revision, and the version that its client must tell.
REVISIONS = {release.tag: str(release) for release in RELEASES} | {"HEAD": committed(REPOSITORY, "VERSION")}
PROGRAM = REPOSITORY / "tests" / "support" / "earlier_client.py"
SEEN = {
    "health": "ok",
    "description": "of an earlier client",
    "secret": [1, ["TOKEN"]],
    "rotated": "spare",
    "sequences": True,
    "kinds": ["queued", "started", "text_delta", "token_usage", "completed"],
    "status": "completed",
    "result": True,
    "listed": True,
    "cost": True,
    "receipt": 1,
    "usage": True,
    "errors": ["NotFoundError", "InvalidArgumentError", "LimitExceededError", "AuthenticationError"],
    "concurrent": ["completed", "completed"],
}


def client_of(revision: str, folder: Path) -> Path:
    """The client of a revision, as it is installed: a folder for the path of modules."""
    extract(REPOSITORY, revision, folder / "tree")
    build_one(folder / "tree" / CLIENT, folder / "dist", EPOCH, "wheel")
    with ZipFile(built(folder / "dist", CLIENT_WHEEL)) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def check(client: Path, address: str, version: str) -> Mapping[str, Any]:
    """Run the program with the client in this folder, which must be of this version; what it saw."""
    done = subprocess.run(
        # -P: what lies beside the program is not what it imports.
        [sys.executable, "-P", str(PROGRAM), str(client)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(client), "CLOUTAGENT_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, seen = done.stdout.splitlines()
    assert told == version
    found: Mapping[str, Any] = json.loads(seen)
    return found


@pytest.mark.parametrize(("revision", "version"), REVISIONS.items(), ids=REVISIONS)
def test_the_client_of_a_release_works(revision: str, version: str, stack: Stack, tmp_path: Path) -> None:
    assert check(client_of(revision, tmp_path), stack.url, version) == SEEN


def test_no_release_is_left_out() -> None:
    assert tags(REPOSITORY) - {f"v{VERSION}"} <= REVISIONS.keys()


def test_the_client_of_the_tests_is_not_taken_for_an_earlier_one(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="another client"):
        check(tmp_path, "http://127.0.0.1:1", VERSION)
