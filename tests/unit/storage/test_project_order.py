"""The order of projects in the index: pages of it, directories that come and go, and the form of earlier versions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.order import ProjectOrder
from tests.support import builders
from tests.support.folders import leftovers, tree
from tests.unit.storage.conftest import OpenStorage

# Before and behind each border between two directories, and far from it.
MILLISECONDS = (0, 1, 99_999, 100_000, 100_001, 99_999_999, 100_000_000, 100_100_000, 1_800_000_000_000)


def places_at(milliseconds: Sequence[int]) -> Sequence[str]:
    return sorted(paging.position(builders.at(at), new_id()) for at in milliseconds)


@pytest.fixture
def order(tmp_path: Path) -> ProjectOrder:
    return ProjectOrder(tmp_path / "projects")


@pytest.mark.parametrize("count", [1, 2, 5, 100])
def test_pages_go_through_all_places_in_order(order: ProjectOrder, count: int) -> None:
    places = places_at(MILLISECONDS * 3)
    for place in reversed(places):
        order.put(place)
    found: list[str] = []
    while page := order.oldest(found[-1] if found else None, count):
        assert len(page) <= count
        found += page
    assert found == places == list(order.all())


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(0, 300_000), max_size=20), st.integers(0, 300_000), st.integers(1, 30))
def test_a_page_is_what_comes_next(tmp_path_factory: pytest.TempPathFactory, at: list[int], start: int, n: int) -> None:
    order = ProjectOrder(tmp_path_factory.mktemp("order"))
    places = places_at(at)
    for place in places:
        order.put(place)
    after = paging.position(builders.at(start), new_id())
    assert order.oldest(after, n) == [place for place in places if place > after][:n]


def test_a_page_reads_no_more_directories_than_it_needs(order: ProjectOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    places = places_at(range(0, 100_000_000, 500_000))
    for place in places:
        order.put(place)
    real, read = os.scandir, []

    def scandir(path: Path) -> object:
        read.append(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert order.oldest(places[150], 5) == places[151:156]
    assert len(read) <= 5 + 4


def test_directories_that_got_empty_go(order: ProjectOrder, tmp_path: Path) -> None:
    first, second, third = places = places_at((0, 1, 100_000))
    for place in places:
        order.put(place)
    order.remove(first)
    order.remove(first)
    assert [order.has(place) for place in places] == [False, True, True]
    order.remove(third)
    assert list(order.all()) == [second]
    order.remove(second)
    assert list((tmp_path / "projects").rglob("*")) == []


def test_a_directory_may_go_while_a_place_is_put_into_it(order: ProjectOrder) -> None:
    """Two that keep removing and putting beside each other lose nothing."""

    def come_and_go(place: str) -> None:
        for _ in range(200):
            order.put(place)
            assert order.has(place)
            order.remove(place)
        order.put(place)

    places = places_at((0, 1, 2))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(come_and_go, places))
    assert list(order.all()) == places


def make_version_1(root: Path) -> None:
    """Give a folder the form that servers had before: places side by side, and leftovers beside what was written."""
    directory = root / ".index" / "projects"
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        path.rename(directory / path.name)
    for path in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    (root / ".index" / "version.json").write_text('{"schemaVersion":1}')
    (root / ".staging").rmdir()


async def test_an_index_of_version_1_is_upgraded(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path
) -> None:
    for _ in range(5):
        await storage.projects.create(builders.project_draft(), builders.credential())
    before = tree(root)
    first = await storage.projects.list(2)
    make_version_1(root)
    (root / ".index" / "projects" / "stray").touch()
    other = await open_storage()
    (root / ".index" / "projects" / "stray").unlink()
    assert tree(root) == before
    assert await other.projects.list(2) == first
    rest = await other.projects.list(10, first.next_page_token)
    assert [*first.items, *rest.items] == list((await storage.projects.list(10)).items)


async def test_an_upgrade_that_was_interrupted_is_completed(
    storage: FileSystemStorage, open_storage: OpenStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await storage.projects.create(builders.project_draft(), builders.credential())
    before = tree(root)
    make_version_1(root)
    order, moved = ProjectOrder(root / ".index" / "projects"), os.rename

    def rename_one(*names: Path) -> None:
        moved(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", rename_one)
    with pytest.raises(KeyboardInterrupt):
        order.upgrade()
    monkeypatch.undo()
    assert len(list(order.all())) == 1
    await open_storage()
    assert tree(root) == before


async def test_what_a_crash_of_an_earlier_version_left_is_cleaned_up(
    storage: FileSystemStorage, open_storage: OpenStorage, project: Project, root: Path
) -> None:
    unborn = await storage.projects.create(builders.project_draft(), builders.credential())
    deleted = await storage.projects.create(builders.project_draft(), builders.credential())
    make_version_1(root)
    (root / unborn.id).rename(root / f".tmp-{unborn.id}")
    (root / deleted.id).rename(root / ".trash" / f"project-{deleted.id}")
    (root / ".tmp-.key-check.json").write_text("{")
    (root / project.id / ".tmp-metadata.json").write_text("{")
    (root / project.id / ".secrets" / ".tmp-secrets.enc").write_text("{")
    other = await open_storage()
    assert leftovers(root) == []
    assert (await other.projects.list(10)).items == (project,)
    for gone in (unborn, deleted):
        assert not [name for name in tree(root) if gone.id in name]
