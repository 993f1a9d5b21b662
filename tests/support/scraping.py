"""Asking the port for operators, as Prometheus and an orchestrator do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cloutagent_server.app import App
from cloutagent_server.settings import Settings
from cloutagent_server.storage.filesystem import FileSystemStorage
from tests.support.api.ports import reserved_port
from tests.support.api.scenario import Projects
from tests.support.api.wire import GrpcApi
from tests.support.fake_engine import FakeEngine
from tests.support.fake_prices import FakePriceList

DEADLINE_SECONDS = 10.0


class Scrape:
    """What one answer of `/metrics` says."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    @property
    def names(self) -> dict[str, str]:
        """The type of each family by the name that the documentation uses: of counters with `_total`."""
        return {family.name + ("_total" if family.type == "counter" else ""): family.type for family in self.families}

    def labels(self, family: str) -> set[str]:
        """The labels that samples of a family have, without those that its type brings."""
        return {
            label
            for one in self.families
            if one.name == family.removesuffix("_total")
            for sample in one.samples
            for label in sample.labels
            if label != "le"
        }

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; 0 without any."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )


@dataclass(frozen=True)
class Watched:
    """A server with its port for operators."""

    app: App
    engine: FakeEngine
    api: GrpcApi
    projects: Projects
    address: str
    folder: Path
    port: int

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """The answer to a GET of the port for operators."""
        return await get(self.port, path, **headers)

    async def scrape(self) -> Scrape:
        """What the metrics are now."""
        answer = await self.get("/metrics")
        assert answer.status_code == 200
        return Scrape(answer.text)

    async def ready(self) -> tuple[int, Any]:
        """What `/readyz` answers."""
        return await ready(self.port)


async def get(port: int, path: str, **headers: str) -> httpx.Response:
    """The answer to a GET of this port."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        return await client.get(path, headers=headers, timeout=DEADLINE_SECONDS)


async def ready(port: int) -> tuple[int, Any]:
    """What `/readyz` of this port answers."""
    answer = await get(port, "/readyz")
    return answer.status_code, answer.json()


def settings_for(folder: Path, port: int, **changes: Any) -> Settings:
    """Settings of a server with its data in this folder and this port for operators."""
    return Settings(
        _env_file=None,
        app_env="test",
        anthropic_base_url="http://127.0.0.1:9",
        encryption_key="5e" * 32,
        project_root=folder / "projects",
        grpc_port=0,
        metrics_host="127.0.0.1",
        metrics_port=port,
        stop_grace_seconds=0,
        **changes,
    )


@asynccontextmanager
async def watched_server(folder: Path, **changes: Any) -> AsyncIterator[Watched]:
    """A server on files with the scripted engine, and all of its ports."""
    with reserved_port() as port:
        settings, engine = settings_for(folder, port, **changes), FakeEngine()
        app = App(settings, FileSystemStorage(settings.project_root), engine, FakePriceList())
        address = f"127.0.0.1:{await app.start()}"
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                api = GrpcApi(channel)
                yield Watched(app, engine, api, Projects(api), address, folder, port)
        finally:
            await app.stop()


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    """A folder that is not there meanwhile."""
    aside = folder.with_name(folder.name + ".aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)
