"""The project of an example: made when the example runs for the first time, and found again by its key."""

from __future__ import annotations

from pathlib import Path

from cloutagent import Client
from cloutagent.errors import AuthenticationError
from cloutagent.types import AgentConfig, Budget, Limits

KEYS = Path(__file__).parent / ".keys"


def open_project(name: str, agent: AgentConfig, *, limits: Limits | None = None, budget: Budget | None = None) -> str:
    """The API key of the example's project, which has these settings now.

    The key is kept in `examples/.keys`, for this user to read alone, since the server shows it once. Where the key is
    not valid (the server has other data now), the project is made anew. A server with `ADMIN_API_KEY` lets only that
    key make projects: put it into `CLOUTAGENT_API_KEY`.
    """
    kept = KEYS / name
    if kept.exists():
        key = kept.read_text(encoding="ascii").strip()
        with Client(api_key=key) as client:
            try:
                client.projects.update(agent=agent, limits=limits, budget=budget)
            except AuthenticationError:
                pass
            else:
                return key
    with Client() as client:
        created = client.projects.create(name=name, agent=agent, limits=limits, budget=budget)
    KEYS.mkdir(mode=0o700, exist_ok=True)
    kept.touch(mode=0o600)
    kept.write_text(created.api_key, encoding="ascii")
    return created.api_key
