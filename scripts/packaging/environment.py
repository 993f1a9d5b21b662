"""A virtual environment with nothing in it but what is installed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from uv import find_uv_bin

REPOSITORY: Final = Path(__file__).parents[2]
LOCK: Final = REPOSITORY / "requirements.lock"
# uv reads none of pip's configuration, where a machine may say which index it uses. What is set for uv itself precedes.
_FROM_PIP: Final = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


class EmptyEnvironment:
    """A new virtual environment of Python, without pip.

    Attributes:
        scripts: The folder of its commands.
        python: Its interpreter.
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        """Make it in `folder` for the interpreter `python`."""
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.scripts = folder / "bin"
        self.python = self.scripts / "python"
        self._folder = folder

    def install(self, *wheels: Path, dependencies: bool = True) -> None:
        """Install wheels, and what they need in the versions that requirements.lock pins, whose hashes are checked.

        Raises:
            CalledProcessError: It could not be installed. What is wrong was printed.
        """
        command = [find_uv_bin(), "pip", "install", "--quiet", "--no-sources", "--python", str(self.python)]
        command += ["--constraints", str(LOCK)] if dependencies else ["--no-deps", "--offline"]
        subprocess.run([*command, *map(str, wheels)], env={**pip_settings(), **os.environ}, check=True)

    def run(self, code: str, **variables: str) -> str:
        """Run Python there and return what it printed. Of this process's environment it sees PATH alone.

        Raises:
            CalledProcessError: It failed. What it wrote to stderr was printed.
        """
        done = subprocess.run(
            [str(self.python), "-c", code],
            cwd=self._folder,
            env={"PATH": os.environ.get("PATH", os.defpath), **variables},
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout


def pip_settings() -> Mapping[str, str]:
    """What pip is configured to, as variables for uv."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    configured = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listing, re.MULTILINE))
    return {ours: configured[theirs] for theirs, ours in _FROM_PIP.items() if theirs in configured}
