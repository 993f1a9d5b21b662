"""`python -m scripts.packaging.build` (`make dist`) makes what a release publishes in `dist/`, offline.

The same commit gives the same bytes, wherever, whenever and by whomever it is done: what was changed since the last one
stays out, and all times are that commit's (SOURCE_DATE_EPOCH, if it is set, takes its place).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.packaging import npm
from scripts.packaging.releases import extract

REPOSITORY: Final = Path(__file__).parents[2]
CLIENT: Final = Path("clients/python")
SERVER: Final = Path()
_DISTRIBUTION: Final = re.compile(r"cloutagent(_server)?-\d.*(\.whl|\.tar\.gz|\.tgz)")


class BuildFailed(Exception):
    """A distribution could not be built. The message is what hatchling printed."""


class FolderRefused(Exception):
    """The folder for what is made has something in it that no build put there. The message names it."""


def build(tree: Path, out: Path, epoch: int) -> None:
    """Build all that is published into `out`: wheels and sdists, with this time in them, and the npm package.

    Args:
        tree: A copy of the files of the repository, in which nothing was built yet.
        out: The folder.
        epoch: Seconds since 1970. The npm package has a time of its own.

    Raises:
        BuildFailed, NpmFailed: Something could not be built.
    """
    for project in (CLIENT, SERVER):
        build_one(tree / project, out, epoch, "sdist", "wheel")
    npm.pack(tree / npm.PACKAGE, out)


def build_one(project: Path, out: Path, epoch: int, *targets: str) -> None:
    """Build these targets (`sdist`, `wheel`) of the distribution whose pyproject.toml is in `project`.

    Raises:
        BuildFailed: It could not be built.
    """
    options = [option for target in targets for option in ("--target", target)]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--directory", str(out.resolve()), *options],
        cwd=project,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildFailed(f"{project.resolve()}: {done.stderr.strip()}")


def commit_time(repository: Path) -> int:
    """Seconds since 1970 at which the last commit was made."""
    command = ["git", "-C", str(repository), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def changed(repository: Path) -> list[str]:
    """What of the repository differs from the last commit, files that git neither tracks nor ignores too."""
    command = ["git", "-C", str(repository), "status", "--porcelain"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def built_before(out: Path) -> list[Path]:
    """The distributions in a folder, which need not exist.

    Raises:
        FolderRefused: There is something else in it.
    """
    if not out.exists():
        return []
    if not out.is_dir():
        raise FolderRefused(f"{out} is no folder")
    found = sorted(out.iterdir())
    for path in found:
        if _DISTRIBUTION.fullmatch(path.name) is None or not path.is_file():
            raise FolderRefused(f"{out} is no folder of distributions, nothing was built: {path.name} is in it")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="build", description=__doc__)
    whole = "folder for what is made, which takes the place of the distributions there; nothing else may be in it"
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", help=whole)
    out: Path = parser.parse_args(arguments).out
    try:
        replaced = built_before(out)
    except FolderRefused as refused:
        print(refused, file=sys.stderr)
        return 1
    if changes := changed(REPOSITORY):
        print("built from the last commit, without these changes:", *changes, sep="\n", file=sys.stderr)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time(REPOSITORY))
    with TemporaryDirectory() as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        extract(REPOSITORY, "HEAD", tree)
        build(tree, made, epoch)
        for path in replaced:
            path.unlink()
        shutil.copytree(made, out, dirs_exist_ok=True)
    for file in sorted(out.iterdir()):
        print(hashlib.sha256(file.read_bytes()).hexdigest(), file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
