"""The pictures in the documentation: there, readable, and needing nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from scripts.pictures import PICTURES, recording, svg

REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "http://www.w3.org/2000/svg"


def check(picture: str) -> None:
    """Check that a picture is well formed and needs nothing from elsewhere."""
    assert ET.fromstring(picture).tag == f"{{{NAMESPACE}}}svg"
    shown_nowhere = re.sub(r">[^<]*<", "><", re.sub(r"<style>.*?</style>", "", picture, flags=re.DOTALL))
    assert "http" not in shown_nowhere.replace(NAMESPACE, "")
    assert re.findall(r"url\((?!#)|@import|@font-face|<script|<image|xlink", picture) == []


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md"])
def test_the_pictures_of_a_page_are_there(page: str) -> None:
    told = re.findall(r"!\[[^]]*\]\(([^)]+\.svg)\)", (REPOSITORY / page).read_text())
    assert told
    for path in told:
        assert ((REPOSITORY / page).parent / path).is_file()


@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_needs_nothing_from_elsewhere(path: Path) -> None:
    check(path.read_text())


def test_a_new_picture_needs_nothing_from_elsewhere_and_has_no_ids() -> None:
    def draw(execution_id: str) -> str:
        console = recording(f"cloutagent watch {execution_id}")
        return svg(console, "watch")

    picture = draw("7fa0a1bc-93b4-4a57-8f0e-2b7d5c9a1e34")
    check(picture)
    assert picture == draw("00000000-0000-4000-8000-000000000000")
