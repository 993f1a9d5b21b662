"""A service in FastAPI that answers one call of the API, in a process of its own: `… -m benchmarks.rest.service ROOT`.

Its job is that of `GET /api/v1/projects/{project_id}`: the same check of the key, the same files below ROOT, which is a
PROJECT_ROOT, and the same JSON. It prints the port that it listens on, and runs until SIGTERM.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import uvicorn
from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.project import Project
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.storage.filesystem import FileSystemStorage

BACKLOG: Final = 2_048


class _Document(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class AgentDocument(_Document):
    id: str
    name: str
    system_prompt: str
    model: str
    temperature: float
    max_tokens: int
    enabled_tools: list[str]
    mcp_servers: dict[str, str]


class LimitsDocument(_Document):
    max_tokens: int
    max_cost: float
    timeout: int


class ProjectDocument(_Document):
    id: str
    name: str
    description: str | None
    agent: AgentDocument
    limits: LimitsDocument
    created_at: str
    updated_at: str


class Answer(_Document):
    project: ProjectDocument


def _document(project: Project) -> ProjectDocument:
    agent = AgentDocument(
        id=project.agent.id,
        name=project.agent.name,
        system_prompt=project.agent.system_prompt,
        model=project.agent.model,
        temperature=project.agent.temperature,
        max_tokens=project.agent.max_tokens,
        enabled_tools=list(project.agent.enabled_tools),
        mcp_servers={},
    )
    limits = LimitsDocument(
        max_tokens=project.limits.max_tokens,
        max_cost=float(project.limits.max_cost),
        timeout=project.limits.timeout,
    )
    return ProjectDocument(
        id=project.id,
        name=project.name,
        description=project.description,
        agent=agent,
        limits=limits,
        created_at=timestamps.to_text(project.created_at),
        updated_at=timestamps.to_text(project.updated_at),
    )


def service(root: Path) -> FastAPI:
    """The service on the files below `root`."""
    storage = FileSystemStorage(root)
    authenticator = Authenticator(storage.projects)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await storage.start()
        yield
        await authenticator.stop()
        await storage.stop()

    async def get_project(project_id: str, x_api_key: Annotated[str | None, Header()] = None) -> Answer:
        principal = await authenticator.authenticate(x_api_key) if x_api_key else None
        if principal is None:
            raise HTTPException(401)
        if principal.project is not None and principal.project.id != project_id:
            raise HTTPException(403)
        project = await storage.projects.read(project_id) if is_id(project_id) else None
        if project is None:
            raise HTTPException(404)
        return Answer(project=_document(project))

    app = FastAPI(lifespan=lifespan)
    app.get("/api/v1/projects/{project_id}", response_model_exclude_none=True)(get_project)
    return app


def main(root: Path) -> None:
    """Serve."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
        config = uvicorn.Config(service(root), loop="uvloop", http="httptools", log_level="error", access_log=False)
        uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
