"""`docker-compose.yml` as docker-compose itself reads it: parsed, held against its schema, variables filled in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
COMPOSE_FILE: Final = REPOSITORY / "docker-compose.yml"
PROFILES: Final = ("dev", "prod")
_SCRIPTS: Final = Path(sysconfig.get_path("scripts"))

Json = dict[str, Any]


class Refused(Exception):
    """docker-compose refused the file. The message is what it printed."""


def read(folder: Path, profile: str, text: str | None = None, **variables: str) -> Json:
    """The services that a profile starts and what belongs to them, read in `folder`, whose `.env` counts.

    `text` stands for the checked-in file if it is given. Of the environment only `variables` are seen.

    Raises:
        Refused: The file is not valid, or a variable is missing.
    """
    target = folder / "docker-compose.yml"
    if text is None:
        shutil.copy(COMPOSE_FILE, target)
    else:
        target.write_text(text)
    command = [str(_SCRIPTS / "docker-compose"), "--profile", profile, "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise Refused(done.stderr)
    loaded: Json = json.loads(done.stdout)
    return loaded


def lint(dockerfile: Path) -> str:
    """What hadolint says against a Dockerfile; empty when nothing."""
    command = [str(_SCRIPTS / "hadolint"), "--no-color", str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr
