"""Settings: read from the environment and `.env`, checked at start, with one clear line for each fault."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cloutagent_server.certificate import CertificateFiles
from cloutagent_server.service.keyring import Keyring

ENV_FILE: Final = Path(".env")
VENDOR_URL: Final = "https://api.anthropic.com"

_MIB: Final = 1024 * 1024
_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")
_ORIGIN: Final = re.compile(
    r"(?!http://.*:80$|https://.*:443$)https?://([a-z0-9_.-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?"
)
# Of the kernel, for the path of a Unix socket.
_SOCKET_BYTES: Final = 107
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")

Port = Annotated[int, Field(ge=0, le=65535)]


class Environment(StrEnum):
    """What the server runs for. Production insists on keys that development can do without."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"
    TEST = "test"


class LogLevel(StrEnum):
    """The least important kind of line that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class StorageKind(StrEnum):
    """What the server keeps its data in."""

    FILESYSTEM = "filesystem"


class InvalidSettings(Exception):
    """The settings are faulty. `faults` has one line for each: the variable and what to do."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class Settings(BaseSettings):
    """All settings of the server. Each is an environment variable of the same name in upper case."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    app_env: Annotated[Environment, BeforeValidator(_lower)] = Field(
        Environment.DEVELOPMENT,
        validation_alias=AliasChoices("APP_ENV", "NODE_ENV"),
        description="What the server runs for. Production insists on ENCRYPTION_KEY and ADMIN_API_KEY.",
    )
    anthropic_base_url: str = Field(VENDOR_URL, description="Where the Messages API is.")
    anthropic_api_key: SecretStr | None = Field(
        None,
        validate_default=True,
        description="API key of the model's vendor (sk-ant-…). Required unless ANTHROPIC_BASE_URL is on loopback.",
    )
    encryption_key: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Key of the stored secrets: 64 hex digits. Required in production; in development one is generated "
        "and appended to .env. Keep it: without it the secrets cannot be opened.",
    )
    encryption_keys_retired: SecretStr | None = Field(
        None,
        description="Earlier encryption keys, comma-separated: they open what they sealed, and seal nothing. Empty it "
        "once `cloutagent-server rotate-encryption-key` has come to its end.",
    )
    admin_api_key: SecretStr | None = Field(
        None,
        validate_default=True,
        description="Key of the operator: 16 characters or more, better 32 or more at random: a shorter one is refused "
        "while too many wrong keys come from its address. Required in production; once it is set, only it creates "
        "projects.",
    )
    max_failed_authentications: int = Field(
        20, ge=1, le=1_000_000, description="Calls a minute with keys that are not valid, from one address, until 429."
    )
    log_level: Annotated[LogLevel, BeforeValidator(_lower)] = Field(
        LogLevel.INFO, description="The least important lines that are logged."
    )
    host: str = Field("127.0.0.1", description="IP address that Envoy listens on.")
    port: Port = Field(3001, description="Port of REST and gRPC through Envoy. 0: any free one.")
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Origins of web pages that may call the API, comma-separated, such as https://app.example.com.",
    )
    tls_certificate_file: Path | None = Field(
        None, description="Certificate of the API with its chain, PEM. With it Envoy listens with TLS."
    )
    tls_private_key_file: Path | None = Field(
        None, validate_default=True, description="Private key of TLS_CERTIFICATE_FILE, PEM. Both or none."
    )
    rate_limit_writes_per_minute: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="REST requests a minute that change something, with one key or without a key from one address, "
        "until 429. 0: any number.",
    )
    grpc_host: str = Field(
        "127.0.0.1", description="Address that the server itself listens on. Only Envoy should reach it."
    )
    grpc_port: Port = Field(50051, description="Port of the server itself (gRPC). 0: any free one.")
    metrics_host: str = Field("127.0.0.1", description="Address that metrics and health probes are served on.")
    metrics_port: Port = Field(9464, description="Port of metrics and health probes. 0: none.")
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="Base URL of a receiver of OpenTelemetry traces (OTLP over HTTP), such as http://collector:4318. "
        "With it server and Envoy send their traces there.",
    )
    grpc_socket: Path | None = Field(
        None,
        description="Unix socket that the server listens on instead of GRPC_HOST and GRPC_PORT, for its user.",
    )
    upstreams: str = Field(
        "",
        validate_default=True,
        description="Servers behind `cloutagent-server envoy`: host:port or unix:/path, separated by commas. "
        "Default: GRPC_SOCKET, or GRPC_HOST and GRPC_PORT.",
    )
    local_model_port: Port = Field(
        0, description="Port of the scripted local model (`cloutagent-server up --local-model`). 0: any free one."
    )
    storage: Annotated[StorageKind, BeforeValidator(_lower)] = Field(
        StorageKind.FILESYSTEM, description="What the data is kept in. Files in PROJECT_ROOT are all there is."
    )
    project_root: Path = Field(Path("data/projects"), validate_default=True, description="Folder of the projects.")
    run_root: Path = Field(
        Path("data/runs"), validate_default=True, description="Folder of the working directories of runs."
    )
    backup_enabled: bool = Field(True, description="Whether the server makes a backup each day.")
    backup_root: Path = Field(Path("data/backups"), validate_default=True, description="Folder of the backups.")
    backup_hour: int = Field(3, ge=0, le=23, description="Hour of the daily backup, in UTC.")
    backup_keep: int = Field(7, ge=1, le=10_000, description="Backups that are kept; older ones are removed.")
    max_concurrent_executions: int = Field(3, ge=1, le=1000, description="Executions that run at a time.")
    max_queued_executions: int = Field(1000, ge=0, le=1_000_000, description="Executions that may wait.")
    execution_retention_days: int = Field(
        7, ge=1, le=36_500, description="Days after an execution's end for which all its events are kept."
    )
    execution_log_max_bytes: int = Field(
        10 * 1024**3,
        ge=1024**2,
        description="Bytes that the event logs of ended executions may have together; beyond, the oldest are trimmed.",
    )
    max_concurrent_per_project: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Executions of one project that run at a time. Unset: no bound of its own, so that one project can "
        "take all places for as long as its runs last. Where projects do not trust each other set it below "
        "MAX_CONCURRENT_EXECUTIONS.",
    )
    max_queued_per_project: int = Field(500, ge=0, le=1_000_000, description="Executions of one project that may wait.")
    max_execution_timeout_seconds: int = Field(
        86_400,
        ge=300,
        le=2_147_483,
        description="The longest timeout of an execution, in seconds: projects may set none that is longer.",
    )
    stop_grace_seconds: float = Field(
        10.0, ge=0, le=3600, description="Seconds that runs get to end by themselves at a stop."
    )

    mcp_private_addresses: bool | None = Field(
        None,
        description="Whether MCP servers may be called by http and at addresses that are not public. "
        "Default: true, in production false.",
    )
    warm_agents: int = Field(
        3,
        ge=0,
        le=100,
        description="Agents that are started in advance, one per configuration used last; about 170 MB each. 0: none.",
    )
    agent_memory_limit: ByteSize = Field(
        ByteSize(2048 * _MIB), ge=256 * _MIB, description="Memory of one run's processes together, such as 2GiB."
    )
    agent_cpu_limit: int = Field(
        3600, ge=1, le=10_000_000, description="Processor time of one run's processes together, in seconds."
    )
    agent_process_limit: int = Field(512, ge=64, le=1_000_000, description="Processes and threads of one run.")
    agent_disk_limit: ByteSize = Field(
        ByteSize(1024 * _MIB), ge=_MIB, description="Size of one run's directory, and of a file in it, such as 1GiB."
    )

    @property
    def calls_private_addresses(self) -> bool:
        """Whether MCP servers may be called by http and at addresses that are not public."""
        if self.mcp_private_addresses is None:
            return self.app_env is not Environment.PRODUCTION
        return self.mcp_private_addresses

    @property
    def upstream_addresses(self) -> list[tuple[str, int]]:
        """Hosts and ports of the servers behind `cloutagent-server envoy`, one or more."""
        return split_addresses(self.upstreams) or [(self.grpc_address, self.grpc_port)]

    @property
    def grpc_address(self) -> str:
        """What the server listens on: a host, with `grpc_port`, or `unix:` and the path of a socket."""
        return self.grpc_host if self.grpc_socket is None else f"unix:{self.grpc_socket}"

    @property
    def trusts_loopback(self) -> bool:
        """Whether whoever is on this machine may create projects: there is no admin key, and no way in from outside."""
        return self.admin_api_key is None and is_loopback(f"http://{_in_url(self.host)}")

    @property
    def traces_url(self) -> str | None:
        """Where traces are sent; None if they are not made."""
        endpoint = self.otel_exporter_otlp_endpoint
        return None if endpoint is None else f"{endpoint}/v1/traces"

    @property
    def certificate(self) -> CertificateFiles | None:
        """The files of the API's certificate; None for an API without TLS."""
        if self.tls_certificate_file is None or self.tls_private_key_file is None:
            return None
        return CertificateFiles(self.tls_certificate_file, self.tls_private_key_file)

    @field_validator("host")
    @classmethod
    def _ip_address(cls, value: str) -> str:
        if not _is_ip_address(value):
            raise ValueError("must be an IP address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's")
        return value

    @field_validator("grpc_host", "metrics_host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not _is_ip_address(value) and _HOST_NAME.fullmatch(value) is None:
            raise ValueError("must be an IP address or a host's name, without a port")
        return value

    @field_validator("upstreams")
    @classmethod
    def _addresses(cls, value: str) -> str:
        split_addresses(value)
        return value

    @field_validator("tls_certificate_file", "tls_private_key_file", "grpc_socket")
    @classmethod
    def _absolute_if_set(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("grpc_socket")
    @classmethod
    def _short_enough(cls, value: Path | None) -> Path | None:
        if value is not None and len(os.fsencode(value)) > _SOCKET_BYTES:
            raise ValueError(f"has more than {_SOCKET_BYTES} bytes, as no path of a socket may; choose a shorter one")
        return value

    @field_validator("tls_private_key_file")
    @classmethod
    def _pair(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("tls_certificate_file")
        if (certificate is None) != (value is None):
            raise ValueError("goes with TLS_CERTIFICATE_FILE; set both, or none for an API without TLS")
        if certificate is not None and value is not None:
            fault = CertificateFiles(certificate, value).fault()
            if fault is not None:
                raise ValueError(fault)
        return value

    @field_validator("project_root", "run_root", "backup_root")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_ORIGIN.fullmatch, value)):
            raise ValueError(
                "must be origins as browsers send them, separated by commas: http or https, the host in lower case, "
                "and the port unless it is the usual one, without a path; * is not allowed"
            )
        return value

    @field_validator("anthropic_base_url", "otel_exporter_otlp_endpoint")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        plain = not (parts.query or parts.fragment or "@" in parts.netloc) and parts.port != 0
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise ValueError("must be an http or https URL without a query, a fragment and a user")
        return value.rstrip("/")

    @field_validator("anthropic_api_key")
    @classmethod
    def _vendor_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith("sk-ant-"):
            raise ValueError("must start with sk-ant-")
        base_url = info.data.get("anthropic_base_url")
        if value is None and base_url is not None and not is_loopback(base_url):
            raise ValueError(
                "is required unless ANTHROPIC_BASE_URL is on loopback; "
                "set it, or try without an account: cloutagent-server up --local-model"
            )
        return value

    @field_validator("encryption_key")
    @classmethod
    def _hex_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and _KEY.fullmatch(value.get_secret_value()) is None:
            raise ValueError("must be 64 hex digits; make one with: openssl rand -hex 32")
        return _required_in_production(value, info)

    @field_validator("encryption_keys_retired")
    @classmethod
    def _hex_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all(map(_KEY.fullmatch, split_keys(value))):
            raise ValueError("must be keys of 64 hex digits, separated by commas")
        return value

    @field_validator("admin_api_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have 16 characters or more")
        return _required_in_production(value, info)


def keyring_of(settings: Settings) -> Keyring:
    """The keys of the stored secrets. Raises ValueError if the settings have none."""
    if settings.encryption_key is None:
        raise ValueError("the settings have no encryption key")
    return Keyring(settings.encryption_key.get_secret_value(), split_keys(settings.encryption_keys_retired))


def split_keys(keys: SecretStr | None) -> list[str]:
    """The keys in a comma-separated list."""
    return [] if keys is None else [key.strip() for key in keys.get_secret_value().split(",")]


def split_addresses(addresses: str) -> list[tuple[str, int]]:
    """Hosts and ports in a comma-separated list, `unix:/path` and 0 of sockets. Raises ValueError if one is neither."""
    found = []
    for address in filter(None, (part.strip() for part in addresses.split(","))):
        if address.startswith("unix:/"):
            found.append((address, 0))
            continue
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535:
            raise ValueError("must be host:port or unix:/path, separated by commas")
        found.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return found


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine's loopback."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reached_at(host: str) -> str:
    """Where this machine reaches what listens on `host`, as a URL has it: all addresses by the one of loopback."""
    if not _is_ip_address(host) or not (address := ipaddress.ip_address(host)).is_unspecified:
        return _in_url(host)
    return "127.0.0.1" if address.version == 4 else "[::1]"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def load(**overrides: Any) -> Settings:
    """Read and check the settings; `overrides` take precedence over the environment.

    Raises:
        InvalidSettings: With every fault there is, never a value of one.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise InvalidSettings(_faults(error)) from None


def with_encryption_key(settings: Settings, env_file: Path = ENV_FILE) -> tuple[Settings, bool]:
    """The settings with an encryption key, and whether a new one was made.

    In development and test a missing key is generated and appended to `env_file` (mode 0600). It is never printed.
    """
    if settings.encryption_key is not None:
        return settings, False
    key = secrets.token_hex(32)
    descriptor = os.open(env_file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "a+b") as file:
        os.fchmod(file.fileno(), 0o600)
        file.seek(0)
        text = file.read()
        file.write((b"" if not text or text.endswith(b"\n") else b"\n") + f"ENCRYPTION_KEY={key}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    return settings.model_copy(update={"encryption_key": SecretStr(key)}), True


def _required_in_production(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if value is None and info.data.get("app_env") is Environment.PRODUCTION:
        raise ValueError("is required in production; make one with: openssl rand -hex 32")
    return value


def _faults(error: ValidationError) -> list[str]:
    return [
        f"{str(fault['loc'][0]).upper()}: {_remedy(fault['type'], fault['msg'])}"
        for fault in error.errors(include_input=False, include_url=False)
    ]


def _remedy(kind: str, message: str) -> str:
    """What to do about a fault of this kind."""
    if kind.startswith("byte_size"):
        return "must be a size such as 512MiB"
    return message.removeprefix("Value error, ").replace("Input should", "must", 1)
