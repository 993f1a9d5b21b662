"""`python -m scripts.packaging.build` (`make dist`) makes what a release publishes in `dist/`, offline.

The same files of the repository give the same bytes, wherever, whenever and by whomever it is done: what git does not
track stays out, and all times are that of the last commit (SOURCE_DATE_EPOCH, if it is set, takes its place).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.packaging import npm

REPOSITORY: Final = Path(__file__).parents[2]
CLIENT: Final = Path("clients/python")
SERVER: Final = Path()


class BuildFailed(Exception):
    """A distribution could not be built. The message is what hatchling printed."""


def copy_tracked(repository: Path, target: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    listing = ["git", "-C", str(repository), "ls-files", "-z"]
    names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (repository / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, target / name)


def build(tree: Path, out: Path, epoch: int) -> None:
    """Build all that is published into `out`: wheels and sdists, with this time in them, and the npm package.

    Args:
        tree: A copy of what git tracks of the repository, in which nothing was built yet.
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


def main(arguments: list[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="build", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "dist", help="folder for what is made; emptied first")
    out: Path = parser.parse_args(arguments).out
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or commit_time(REPOSITORY))
    with TemporaryDirectory() as folder:
        tree, made = Path(folder, "tree"), Path(folder, "made")
        copy_tracked(REPOSITORY, tree)
        build(tree, made, epoch)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)
    for file in sorted(out.iterdir()):
        print(hashlib.sha256(file.read_bytes()).hexdigest(), file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
