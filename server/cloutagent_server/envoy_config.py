"""Envoy's configuration for one place: the checked-in `envoy.yaml` with addresses, ports and file names put in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_PACKAGED = Path(__file__).parent / "_envoy"
_CHECKED_IN = Path(__file__).parents[2] / "envoy"


def config_directory() -> Path:
    """The directory of `envoy.yaml`, its Lua and the descriptor set: inside the package, else in the repository."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKED_IN


@dataclass(frozen=True, slots=True)
class EnvoyAddresses:
    """Where Envoy listens and where the server is.

    Attributes:
        host: IP address to listen on.
        port: Port to listen on; 0 lets the system choose a free one.
        upstream_host: Name or IP address of the gRPC server.
        upstream_port: Port of the gRPC server.
        admin_path: Path of the socket of the admin interface, at most 107 bytes; a relative one counts from the working
            directory of Envoy.
    """

    host: str
    port: int
    upstream_host: str
    upstream_port: int
    admin_path: str


def rendered_config(addresses: EnvoyAddresses) -> dict[str, Any]:
    """The checked-in configuration with `addresses` and the absolute paths of its files.

    Raises:
        OSError: `envoy.yaml` cannot be read.
    """
    directory = config_directory()
    config: dict[str, Any] = yaml.safe_load((directory / "envoy.yaml").read_text(encoding="utf-8"))
    config["admin"]["address"]["pipe"]["path"] = addresses.admin_path

    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": addresses.host, "port_value": addresses.port}

    (cluster,) = config["static_resources"]["clusters"]
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    (server,) = endpoints["lb_endpoints"]
    server["endpoint"]["address"]["socket_address"] = {
        "address": addresses.upstream_host,
        "port_value": addresses.upstream_port,
    }

    (chain,) = listener["filter_chains"]
    (connection_manager,) = chain["filters"]
    filters = {each["name"]: each["typed_config"] for each in connection_manager["typed_config"]["http_filters"]}
    lua = filters["envoy.filters.http.lua"]["default_source_code"]
    lua["filename"] = str(directory / Path(lua["filename"]).name)
    transcoder = filters["envoy.filters.http.grpc_json_transcoder"]
    transcoder["proto_descriptor"] = str(directory / Path(transcoder["proto_descriptor"]).name)
    (host,) = connection_manager["typed_config"]["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        body = route.get("direct_response", {}).get("body", {})
        if "filename" in body:
            body["filename"] = str(directory / Path(body["filename"]).name)
    return config
