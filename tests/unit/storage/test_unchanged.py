"""What files held is known only as long as they are the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloutagent_server.storage.filesystem.unchanged import Unchanged

PAST = 1_700_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all that was changed until now had been changed long ago."""
    monkeypatch.setattr("time.time_ns", lambda: 1 << 62)


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once_as_long_as_it_is_the_same(path: Path) -> None:
    known = Unchanged[str]()
    assert known.get(path) is None
    assert known.read(path, path.read_text) == "old"
    assert known.get(path) == "old"


def test_one_that_was_changed_just_now_is_read_again(path: Path) -> None:
    known = Unchanged[str]()
    assert known.read(path, path.read_text) == "old"
    assert known.get(path) is None


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["replaced", "overwritten", "touched", "opened to others", "removed"])
def test_any_change_is_noticed(path: Path, change: str) -> None:
    known = Unchanged[str]()
    os.utime(path, (PAST, PAST))
    known.read(path, path.read_text)
    match change:
        case "replaced":
            new = path.with_name("new")
            new.write_text("new")
            os.utime(new, (PAST, PAST))
            new.rename(path)
        case "overwritten":
            path.write_text("new")
        case "touched":
            os.utime(path, (PAST + 1, PAST + 1))
        case "opened to others":
            path.chmod(0o666)
        case "removed":
            path.unlink()
    assert known.get(path) is None


@pytest.mark.usefixtures("settled")
def test_a_change_while_it_is_read_is_noticed(path: Path) -> None:
    known = Unchanged[str]()

    def load() -> str:
        text = path.read_text()
        path.with_name("new").write_text("new")
        path.with_name("new").rename(path)
        return text

    assert known.read(path, load) == "old"
    assert known.get(path) is None


@pytest.mark.usefixtures("settled")
def test_what_cannot_be_loaded_is_not_known(path: Path) -> None:
    known = Unchanged[str]()
    known.read(path, path.read_text)
    with pytest.raises(ValueError, match="no text"):
        known.read(path, lambda: (_ for _ in ()).throw(ValueError("no text")))
    assert known.read(path, lambda: None) is None
    assert known.get(path) is None
