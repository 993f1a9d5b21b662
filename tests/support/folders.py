"""Looking at the folder of the filesystem backend from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def tree(root: Path) -> Mapping[str, bytes]:
    """The files under `root` with their content, and its directories; without locks and leases: they hold nothing."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not name.startswith((".locks/", ".servers/")):
            found[name] = path.read_bytes() if path.is_file() else b"(directory)"
    return found


def leftovers(root: Path) -> Sequence[str]:
    """What a finished write, or cleaning up, must not leave: temporary files, and anything in the trash."""
    found = []
    for directory, directories, names in os.walk(root):
        place = "" if directory == str(root) else directory.removeprefix(f"{root}/") + "/"
        found += [place + name for name in (*directories, *names)]
    return [name for name in found if ".tmp-" in name or name.startswith(".trash/")]
