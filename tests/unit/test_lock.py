"""The lock files pin all that pip and npm look for by themselves."""

import json
import re
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[2] / "requirements.lock"
NPM_LOCK = Path(__file__).parents[1] / "clients" / "package-lock.json"


def pinned() -> dict[str, set[str]]:
    """The pinned distributions, each with the extras that the lock names."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)(?:\[([^]]+)\])?==", LOCK.read_text(), re.MULTILINE)
    return {canonicalize_name(name): {extra.strip() for extra in extras.split(",")} - {""} for name, extras in lines}


def test_extras_that_a_dependency_asks_for_are_pinned_with_it() -> None:
    # For pip `coverage[toml]` is not `coverage`: unpinned, it would take the newest one, which has no hash here.
    locked = pinned()
    asked = 0
    for distribution in distributions():
        if canonicalize_name(distribution.name) not in locked:
            continue
        for text in distribution.requires or []:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if (
                name in locked
                and requirement.extras
                and (not requirement.marker or requirement.marker.evaluate({"extra": ""}))
            ):
                asked += 1
                assert requirement.extras <= locked[name], f"{distribution.name} requires {text}"
    assert asked


def test_the_lock_names_no_index() -> None:
    assert "://" not in LOCK.read_text()


def test_the_lock_of_npm_pins_by_hash_and_names_no_registry() -> None:
    packages = json.loads(NPM_LOCK.read_text())["packages"]
    packages.pop("")
    assert packages
    assert all(
        package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages.values()
    )
