"""Tell what the server's image is made of: the size of each package that `cloutagent-server` brings, as installed.

The base image comes on top. `python -m scripts.image_size` prints a table, the largest first.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SERVER = "cloutagent-server"
MB = 1_000_000


def brought_along(name: str) -> set[str]:
    """The names of a distribution and of all that it requires on this machine, extras included."""
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), "")]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for text in distribution(one[0]).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": one[1]}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, extra) for extra in ("", *requirement.extras)]
    return {name for name, _ in seen}


def installed_size(name: str) -> int:
    """Bytes of the files of an installed distribution; its byte code counts, if it was made at the installation."""
    paths = (Path(str(file.locate())) for file in distribution(name).files or [])
    return sum(path.stat().st_size for path in paths if path.is_file())


def sizes() -> dict[str, int]:
    """Bytes by package, the largest first."""
    found = {name: installed_size(name) for name in brought_along(SERVER)}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def main() -> int:
    """Print the table; returns the exit status."""
    found = sizes()
    for name, size in found.items():
        print(f"{size / MB:8.1f} MB  {name}")
    print(f"{sum(found.values()) / MB:8.1f} MB  together, {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
