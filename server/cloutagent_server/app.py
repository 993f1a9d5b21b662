"""The composition root: picks the parts, starts them in order, stops them gracefully."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from cloutagent_server import __version__, interpreter
from cloutagent_server.domain.errors import StorageUnavailable
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.engine.claude import ClaudeEngine
from cloutagent_server.engine.gateway import ModelGateway
from cloutagent_server.engine.limits import AgentLimits
from cloutagent_server.engine.mcp_relay import McpRelay
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.engine.sdk import SdkLoader
from cloutagent_server.maintenance import adopted_only, daily_backup
from cloutagent_server.monitoring.envoy import Statistics
from cloutagent_server.monitoring.measured_storage import MeasuredStorage, measured_operations
from cloutagent_server.monitoring.prometheus import PrometheusMetrics
from cloutagent_server.monitoring.readiness import Readiness
from cloutagent_server.monitoring.server import MonitoringServer
from cloutagent_server.monitoring.tracing import Tracing
from cloutagent_server.service.attempts import FailedAttempts
from cloutagent_server.service.audit import AuditTrail, HeldAgainstAudit
from cloutagent_server.service.auth import Authenticator
from cloutagent_server.service.daily import Daily
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.keys import KeyService
from cloutagent_server.service.projects import ProjectService
from cloutagent_server.service.receipts import ReceiptService
from cloutagent_server.service.retention import Retention
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.service.takeover import Takeover
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import WatchService
from cloutagent_server.settings import Settings, keyring_of
from cloutagent_server.storage.base import Storage
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.transport.server import METHODS, GrpcServer, Services

log: Final = logging.getLogger(__name__)

# What the vendor's key is replaced by when the model is local and asks for none.
LOCAL_MODEL_KEY: Final = "local-model"


class App:
    """The server: services and transport over the given parts."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        engine: Engine,
        prices: PriceList,
        daily: Sequence[Daily] = (),
        metrics: PrometheusMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`settings` must have an encryption key. `daily` is what is done each day while the server runs.

        `metrics` and `tracing` are those that the engine reports to, where it does.
        """
        metrics = PrometheusMetrics(prices, __version__) if metrics is None else metrics
        self._tracing = Tracing(settings.traces_url, __version__) if tracing is None else tracing
        metrics.expect(METHODS, measured_operations())
        storage = MeasuredStorage(storage, metrics)
        self._settings = settings
        self._storage = storage
        self._engine = engine
        self._daily = daily
        admin_key = settings.admin_api_key
        self._authenticator = Authenticator(
            storage.projects, None if admin_key is None else admin_key.get_secret_value(), metrics=metrics
        )
        self._secrets = SecretManager(
            HeldAgainstAudit(storage.secrets, storage.audit), keyring_of(settings), adopted_only(settings)
        )
        longest_timeout = settings.max_execution_timeout_seconds * 1000
        self._executions = ExecutionService(
            storage,
            self._secrets,
            engine,
            prices,
            max_running=settings.max_concurrent_executions,
            max_waiting=settings.max_queued_executions,
            max_running_of_project=settings.max_concurrent_per_project,
            max_waiting_of_project=settings.max_queued_per_project,
            longest_timeout=longest_timeout,
            metrics=metrics,
            tracer=self._tracing.tracer,
        )
        metrics.follow_queue(lambda: self._executions.waiting, lambda: self._executions.running)
        self._takeover = Takeover(self._executions)
        self._retention = Retention(
            storage.executions,
            keep=timedelta(days=settings.execution_retention_days),
            max_bytes=settings.execution_log_max_bytes,
        )
        projects = ProjectService(
            storage.projects, self._authenticator, self._executions, prices, engine, longest_timeout
        )
        self.services = Services(
            self._authenticator,
            projects,
            self._secrets,
            self._executions,
            WatchService(storage.executions, metrics=metrics),
            __version__,
            KeyService(storage.projects, self._authenticator),
            FailedAttempts(settings.max_failed_authentications),
            AuditTrail(storage.audit),
            UsageService(storage),
            ReceiptService(storage, prices),
            metrics,
            self._tracing.tracer,
        )
        self._server: GrpcServer | None = None
        # Why no calls are taken; None while they are.
        self._away: str | None = "starting"
        self._monitoring = MonitoringServer(
            metrics.registry,
            Readiness({"server": self._server_fault, "storage": self._storage_fault, "engine": self._engine_fault}),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> App:
        """The server on real parts: the file system, and agents behind the model gateway."""
        prices = GenaiPriceList()
        metrics = PrometheusMetrics(prices, __version__)
        tracing = Tracing(settings.traces_url, __version__)
        key = settings.anthropic_api_key
        gateway = ModelGateway(
            settings.anthropic_base_url,
            LOCAL_MODEL_KEY if key is None else key.get_secret_value(),
            prices,
            McpRelay(private=settings.calls_private_addresses),
            metrics=metrics,
            tracer=tracing.tracer,
        )
        engine = ClaudeEngine(
            gateway,
            prices,
            settings.run_root,
            limits=_limits_of(settings),
            hidden=_hidden_from_agents(settings),
            warm_agents=settings.warm_agents,
            sdk=SdkLoader(then=interpreter.keep),
        )
        daily = [daily_backup(settings)] if settings.backup_enabled else []
        return cls(settings, FileSystemStorage(settings.project_root), engine, prices, daily, metrics, tracing)

    async def start(self) -> int:
        """Start storage, engine and server, and recover what a dead server left; returns the gRPC port.

        Metrics and probes are there from the beginning to the end of `stop`.
        """
        if self._settings.metrics_port:
            port = await self._monitoring.start(self._settings.metrics_host, self._settings.metrics_port)
            log.info("monitoring", extra={"host": self._settings.metrics_host, "port": port})
        await self._storage.start()
        await self._secrets.check_key()
        await self._engine.start()
        await self._executions.recover()
        self._server = GrpcServer(self.services)
        port = await self._server.start(self._settings.grpc_address, self._settings.grpc_port)
        self._takeover.start()
        self._retention.start()
        for work in self._daily:
            work.start()
        head = await self.services.audit.head()
        log.info("audit_log", extra={"sequence": head.sequence, "hash": head.hash})
        self._away = None
        log.info("serving", extra={"host": self._settings.grpc_address, "port": port, "version": __version__})
        return port

    def show_envoy(self, statistics: Statistics) -> None:
        """Serve what the Envoy in front of this server counts beside the server's own metrics."""
        self._monitoring.show_envoy(statistics)

    async def leave_rotation(self) -> None:
        """Tell whoever balances load to send nothing more, and go on serving all that comes."""
        self._away = "stopping"
        if self._server is not None:
            await self._server.leave_rotation()

    async def finish_runs(self) -> None:
        """Start no more runs, and return when those under way have ended, within the grace or as interrupted.

        Calls are still answered, so that whoever watches a run sees its end.
        """
        log.info("stopping")
        await self.leave_rotation()
        await self._takeover.stop()
        await self._executions.stop(self._settings.stop_grace_seconds)

    async def stop(self) -> None:
        """Finish the runs, then stop the parts in the reverse order of their start."""
        for work in self._daily:
            await work.stop()
        await self._retention.stop()
        await self.finish_runs()
        if self._server is not None:
            await self._server.stop(grace=2.0)
        await self.services.audit.stop()
        await self._engine.stop()
        await self._authenticator.stop()
        await self._storage.stop()
        await self._tracing.stop()
        await self._monitoring.stop()
        log.info("stopped")

    async def _server_fault(self) -> str | None:
        return self._away

    async def _storage_fault(self) -> str | None:
        try:
            await self._storage.check_writable()
        except StorageUnavailable as fault:
            return fault.cause or str(fault)
        return None

    async def _engine_fault(self) -> str | None:
        return self._engine.fault()


def _limits_of(settings: Settings) -> AgentLimits:
    return AgentLimits(
        memory_bytes=settings.agent_memory_limit,
        cpu_seconds=settings.agent_cpu_limit,
        processes=settings.agent_process_limit,
        disk_bytes=settings.agent_disk_limit,
    )


def _hidden_from_agents(settings: Settings) -> list[Path]:
    """What belongs to the servers and their user; the working directory may hold `.env`."""
    key = settings.tls_private_key_file
    keys = [] if key is None else [key.parent]
    return [settings.project_root, settings.backup_root, settings.run_root.parent, Path.home(), Path.cwd(), *keys]
