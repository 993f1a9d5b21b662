"""Envoy's configuration for one place: the checked-in `envoy.yaml` with addresses, ports and file names put in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from cloutagent_server.certificate import authorities

_PACKAGED = Path(__file__).parent / "_envoy"
_CHECKED_IN = Path(__file__).parents[2] / "envoy"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
_UNIX = "unix:"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_METHOD = "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%"
_TRACES = "traces"
_TRACES_MILLISECONDS = 1000
_RATE_LIMIT = "envoy.filters.http.local_ratelimit"
# A year, as it is usual.
_STRICT_TRANSPORT_SECURITY = "max-age=31536000"


def config_directory() -> Path:
    """The directory of `envoy.yaml`, its Lua and the descriptor set: inside the package, else in the repository."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKED_IN


@dataclass(frozen=True, slots=True)
class EnvoyAddresses:
    """Where Envoy listens and how, and where the server is.

    Attributes:
        host: IP address to listen on.
        port: Port to listen on; 0 lets the system choose a free one.
        upstream_host: Name or IP address of the gRPC server, or `unix:` and the absolute path of its socket.
        upstream_port: Port of the gRPC server; of no meaning for a socket.
        admin_path: Path of the socket of the admin interface, at most 107 bytes; a relative one counts from the working
            directory of Envoy.
        cors_origins: Origins of web pages that may read the answers, each as scheme, host and port.
        other_upstreams: Hosts and ports of more gRPC servers, among which requests are spread.
        certificate_path: Absolute path of a file with a `certificate_resource`: Envoy listens with TLS. None: without.
        writes_per_minute: REST requests that change something, with one key or without a key from one address, before
            the answer is 429. 0: any number.
        loopback_only: Whether only requests to this machine's loopback by name, or to `host`, are answered: a web page
            can have a name of its own lead here.
        traces_url: Where an OTLP receiver takes traces over HTTP. None: there are none.
    """

    host: str
    port: int
    upstream_host: str
    upstream_port: int
    admin_path: str
    cors_origins: tuple[str, ...] = ()
    other_upstreams: tuple[tuple[str, int], ...] = ()
    certificate_path: str | None = None
    writes_per_minute: int = 0
    loopback_only: bool = False
    traces_url: str | None = None


def rendered_config(addresses: EnvoyAddresses) -> dict[str, Any]:
    """The checked-in configuration with `addresses` and the absolute paths of its files.

    Raises:
        OSError: `envoy.yaml` cannot be read, or nothing is known by which to check the certificate of `traces_url`.
    """
    directory = config_directory()
    config: dict[str, Any] = yaml.safe_load((directory / "envoy.yaml").read_text(encoding="utf-8"))
    config["admin"]["address"]["pipe"]["path"] = addresses.admin_path

    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = _socket_address(addresses.host, addresses.port)

    upstreams = ((addresses.upstream_host, addresses.upstream_port), *addresses.other_upstreams)
    for cluster in config["static_resources"]["clusters"]:
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [{"endpoint": {"address": _upstream(host, port)}} for host, port in upstreams]
        if any(host.startswith(_UNIX) for host, _ in upstreams):
            # Beside a socket there are no names to resolve, only addresses.
            cluster["type"] = "STATIC"
            del cluster["dns_lookup_family"]

    (chain,) = listener["filter_chains"]
    (connection_manager,) = chain["filters"]
    http_filters = connection_manager["typed_config"]["http_filters"]
    filters = {each["name"]: each["typed_config"] for each in http_filters}
    lua = filters["envoy.filters.http.lua"]
    for script in (lua["default_source_code"], *lua["source_codes"].values()):
        script["filename"] = str(directory / Path(script["filename"]).name)
    transcoder = filters["envoy.filters.http.grpc_json_transcoder"]
    transcoder["proto_descriptor"] = str(directory / Path(transcoder["proto_descriptor"]).name)

    (host,) = connection_manager["typed_config"]["route_config"]["virtual_hosts"]
    cors = host["typed_per_filter_config"]["envoy.filters.http.cors"]
    cors["allow_origin_string_match"] = [{"exact": origin} for origin in addresses.cors_origins]
    if addresses.loopback_only:
        host["domains"] = sorted({*_LOOPBACK_NAMES, addresses.host})
    if addresses.writes_per_minute:
        _limit_writes(filters[_RATE_LIMIT], addresses.writes_per_minute)
    else:
        http_filters[:] = [each for each in http_filters if each["name"] != _RATE_LIMIT]
    if addresses.certificate_path is not None:
        chain["transport_socket"] = _tls(addresses.certificate_path)
        # Whoever came by TLS once shall not be led to do without.
        filters["envoy.filters.http.header_mutation"]["mutations"]["response_mutations"].append(
            {
                "append": {
                    "header": {"key": "strict-transport-security", "value": _STRICT_TRANSPORT_SECURITY},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            }
        )
    if addresses.traces_url is not None:
        _trace(config, connection_manager["typed_config"], addresses.traces_url)
    for route in host["routes"]:
        body = route.get("direct_response", {}).get("body", {})
        if "filename" in body:
            body["filename"] = str(directory / Path(body["filename"]).name)
    return config


def certificate_resource(certificate: Path, private_key: Path, watched: Path) -> dict[str, Any]:
    """What tells Envoy of these files, to be read again whenever a file is moved into the directory `watched`.

    New connections get the new certificate; those that are open stay as they are.
    """
    return {
        "resources": [
            {
                "@type": f"{_TLS}.Secret",
                "name": "api",
                "tls_certificate": {
                    "certificate_chain": {"filename": str(certificate)},
                    "private_key": {"filename": str(private_key)},
                    "watched_directory": {"path": str(watched)},
                },
            }
        ]
    }


def _socket_address(host: str, port: int) -> dict[str, Any]:
    return {"address": host, "port_value": port}


def _upstream(host: str, port: int) -> dict[str, Any]:
    if host.startswith(_UNIX):
        return {"pipe": {"path": host.removeprefix(_UNIX)}}
    return {"socket_address": _socket_address(host, port)}


def _limit_writes(rate_limit: dict[str, Any], writes_per_minute: int) -> None:
    for descriptor in rate_limit["descriptors"]:
        descriptor["token_bucket"] |= {"max_tokens": writes_per_minute, "tokens_per_fill": writes_per_minute}
    (retry_after,) = rate_limit["response_headers_to_add"]
    retry_after["header"]["value"] = str(math.ceil(60 / writes_per_minute))


def _trace(config: dict[str, Any], connection_manager: dict[str, Any], url: str) -> None:
    """One span for a request and one for what the server had of it, in the caller's trace if it names one."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    endpoint = {"endpoint": {"address": _upstream(parts.hostname or "", port)}}
    cluster: dict[str, Any] = {
        "name": _TRACES,
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": _TRACES, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if secure:
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TLS}.UpstreamTlsContext",
                "sni": parts.hostname,
                "auto_sni_san_validation": True,
                "common_tls_context": {"validation_context": {"trusted_ca": {"filename": authorities()}}},
            },
        }
    config["static_resources"]["clusters"].append(cluster)
    connection_manager["tracing"] = {
        "spawn_upstream_span": True,
        "operation": f"{_METHOD} %ROUTE_NAME%",
        "upstream_operation": "server",
        # As the caller sent them, before they were transcoded; and as in the access log without a query.
        "custom_tags": [
            {"tag": "http.method", "value": _METHOD},
            {"tag": "http.url", "value": "%PATH(NQ:ORIG_OR_PATH):512%"},
        ],
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "service_name": "cloutagent-envoy",
                "http_service": {"http_uri": {"uri": url, "cluster": _TRACES, "timeout": "3s"}},
            },
        },
    }
    (layer,) = config["layered_runtime"]["layers"]
    layer["static_layer"]["tracing.opentelemetry.flush_interval_ms"] = _TRACES_MILLISECONDS
    (access_log,) = connection_manager["access_log"]
    access_log["typed_config"]["log_format"]["json_format"]["trace_id"] = "%TRACE_ID%"


def _tls(certificate_path: str) -> dict[str, Any]:
    source = {"path_config_source": {"path": certificate_path}, "resource_api_version": "V3"}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [{"name": "api", "sds_config": source}],
            },
        },
    }
