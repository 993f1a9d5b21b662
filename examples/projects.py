"""The project of an example: made when the example runs for the first time, and found again by its key."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from cloutagent import Client
from cloutagent.errors import AuthenticationError, ConfigurationError
from cloutagent.types import AgentConfig, Budget, Limits

KEYS = Path(__file__).parent / ".keys"
# Where a client goes that is told nothing else.
DEFAULT_ADDRESS = "http://127.0.0.1:3001"


def open_project(name: str, agent: AgentConfig, *, limits: Limits | None = None, budget: Budget | None = None) -> str:
    """The API key of the example's project, which has these settings now.

    If `CLOUTAGENT_API_KEY` is a project's key, that is the project. Else its key is kept in `examples/.keys`, for this
    user to read alone, since the server shows it once; a key goes to no other address than the one that it came from.
    Where it is not valid (the server has other data now), the project is made anew. However many processes ask at the
    same time, one makes it. A server with `ADMIN_API_KEY` lets only that key make projects: put it into
    `CLOUTAGENT_API_KEY`.

    Raises:
        ConfigurationError: The key in `CLOUTAGENT_API_KEY` is that of a project with another name, whose settings
            would be lost.
        ApiError: A call failed.
    """
    given = os.environ.get("CLOUTAGENT_API_KEY")
    with Client() as client:
        if given and (current := client.projects.current()).HasField("project"):
            if current.project.name != name:
                raise ConfigurationError(
                    f"the key in CLOUTAGENT_API_KEY is that of the project {current.project.name!r}, not of {name!r}"
                )
            client.projects.update(agent=agent, limits=limits, budget=budget)
            return given
        with _locked(KEYS / kept_as(name)) as file:
            kept = file.read().strip()
            if kept and _updated(kept, agent, limits, budget):
                return kept
            created = client.projects.create(name=name, agent=agent, limits=limits, budget=budget)
            file.seek(0)
            file.truncate()
            file.write(created.api_key)
            return created.api_key


def kept_as(name: str) -> str:
    """The name of the file that keeps the key of this example's project on the server at `CLOUTAGENT_ADDRESS`."""
    address = os.environ.get("CLOUTAGENT_ADDRESS") or DEFAULT_ADDRESS
    return f"{name}@{quote(address.rstrip('/'), safe='')}"


def _updated(key: str, agent: AgentConfig, limits: Limits | None, budget: Budget | None) -> bool:
    """Give the key's project these settings; whether the key is valid."""
    with Client(api_key=key) as client:
        try:
            client.projects.update(agent=agent, limits=limits, budget=budget)
        except AuthenticationError:
            return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """A file that this process alone works with until the end, made if it is not there."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    with path.open("r+", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
