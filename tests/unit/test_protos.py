"""The protos as they are read: every element is commented, every rpc has its access rule and its route."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from cloutagent.v1 import access_pb2, audit_pb2, execution_pb2, project_pb2, secret_pb2, system_pb2
from cloutagent_server.transport.server import FILES
from scripts.openapi.elements import comments
from scripts.proto_image import PROTOS, compile_protos, own_files

# The streams of messages: over REST the same events come as text.
WITHOUT_ROUTE = {
    "cloutagent.v1.ExecutionService.ExecuteStream",
    "cloutagent.v1.ExecutionService.WatchExecution",
    "cloutagent.v1.ExecutionService.WatchUsage",
}

# What changes nothing and hands out nothing that the caller did not bring, though its verb is not GET.
NOT_AUDITED = {
    "SecretService.Encrypt",
    "ExecutionService.EstimateCost",
    "ExecutionService.WatchExecution",
    "ExecutionService.WatchUsage",
}
# What is recorded although its verb is GET: it hands out a secret in plain.
AUDITED_READS = {"SecretService.GetSecret"}

# The table of the design: route by rpc.
ROUTES = {
    "ProjectService.CreateProject": "post /api/v1/projects",
    "ProjectService.GetProject": "get /api/v1/projects/{project_id}",
    "ProjectService.UpdateProject": "patch /api/v1/projects/{project.id}",
    "ProjectService.DeleteProject": "delete /api/v1/projects/{project_id}",
    "ProjectService.ListProjects": "get /api/v1/projects",
    "ProjectService.ProjectExists": "get /api/v1/projects/{project_id}/exists",
    "ProjectService.CreateApiKey": "post /api/v1/projects/{project_id}/keys",
    "ProjectService.ListApiKeys": "get /api/v1/projects/{project_id}/keys",
    "ProjectService.RotateApiKey": "post /api/v1/projects/{project_id}/rotate-key",
    "ProjectService.RevokeApiKey": "delete /api/v1/projects/{project_id}/keys/{key_id}",
    "ProjectService.GetCurrentProject": "get /api/v1/me",
    "SecretService.SetSecret": "put /api/v1/projects/{project_id}/secrets/{name}",
    "SecretService.GetSecret": "get /api/v1/projects/{project_id}/secrets/{name}",
    "SecretService.ListSecrets": "get /api/v1/projects/{project_id}/secrets",
    "SecretService.GetSecretMetadata": "get /api/v1/projects/{project_id}/secrets/{name}/metadata",
    "SecretService.ListSecretVersions": "get /api/v1/projects/{project_id}/secrets/{name}/versions",
    "SecretService.RestoreSecretVersion": "post /api/v1/projects/{project_id}/secrets/{name}:restore",
    "SecretService.DeleteSecret": "delete /api/v1/projects/{project_id}/secrets/{name}",
    "SecretService.Encrypt": "post /api/v1/projects/{project_id}/secrets:encrypt",
    "SecretService.Decrypt": "post /api/v1/projects/{project_id}/secrets:decrypt",
    "ExecutionService.Execute": "post /api/v1/projects/{project_id}/execute",
    "ExecutionService.StartExecution": "post /api/v1/projects/{project_id}/executions",
    "ExecutionService.StreamExecutionEvents": "get /api/v1/executions/{execution_id}/stream",
    "ExecutionService.ExecuteEventStream": "post /api/v1/projects/{project_id}/execute/stream",
    "ExecutionService.GetExecution": "get /api/v1/executions/{execution_id}",
    "ExecutionService.ListExecutions": "get /api/v1/projects/{project_id}/executions",
    "ExecutionService.CancelExecution": "post /api/v1/executions/{execution_id}/cancel",
    "ExecutionService.DeleteExecution": "delete /api/v1/executions/{execution_id}",
    "ExecutionService.GetExecutionCost": "get /api/v1/executions/{execution_id}/cost",
    "ExecutionService.EstimateCost": "post /api/v1/projects/{project_id}/estimate",
    "ExecutionService.GetReceipt": "get /api/v1/executions/{execution_id}/receipt",
    "ExecutionService.GetUsage": "get /api/v1/projects/{project_id}/usage",
    "ExecutionService.StreamUsage": "get /api/v1/projects/{project_id}/usage/stream",
    "ExecutionService.ListModels": "get /api/v1/models",
    "SystemService.GetHealth": "get /api/health",
}


@cache
def files() -> dict[str, FileDescriptorProto]:
    """Our own files with their comments, by name."""
    image = compile_protos(PROTOS, source_info=True)
    own = set(own_files(PROTOS))
    return {file.name: file for file in image.file if file.name in own}


def methods() -> list[MethodDescriptor]:
    return [method for file in FILES for service in file.services_by_name.values() for method in service.methods]


every_method: Callable[[Any], Any] = pytest.mark.parametrize("method", methods(), ids=lambda method: method.full_name)


def http_rule(method: MethodDescriptor) -> Any:
    return method.GetOptions().Extensions[annotations_pb2.http]


def test_every_element_has_a_comment_that_is_a_sentence() -> None:
    said = {f"{file.name}: {name}": text for file in files().values() for name, text in comments(file)}
    assert [name for name, text in said.items() if not text.endswith((".", ":", "?"))] == []
    assert len(said) > 250


def test_the_server_serves_every_service_of_the_protos() -> None:
    served = {service.full_name for file in FILES for service in file.services_by_name.values()}
    declared = {f"{file.package}.{service.name}" for file in files().values() for service in file.service}
    assert served == declared


@every_method
def test_every_rpc_has_an_access_rule_that_fits_its_request(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[access_pb2.access]
    kind = rule.WhichOneof("rule")
    assert kind is not None
    names = {field.name for field in method.input_type.fields}
    if "execution_id" in names:
        assert rule == access_pb2.Access(execution_field="execution_id")
    elif "project_id" in names:
        assert rule.project_field == "project_id"
    else:
        assert kind != "execution_field"
    assert not rule.may_be_missing or method.name == "ProjectExists"


@every_method
def test_every_rpc_has_its_route_or_is_a_stream_for_grpc_alone(method: MethodDescriptor) -> None:
    rule = http_rule(method)
    verb = rule.WhichOneof("pattern")
    if method.full_name in WITHOUT_ROUTE:
        assert verb is None and method.server_streaming
        return
    route = f"{verb} {getattr(rule, verb)}"
    assert ROUTES[method.full_name.removeprefix("cloutagent.v1.")] == route
    expected_body = {"post": "*", "put": "*", "patch": "project"}.get(verb, "")
    assert rule.body == expected_body
    for path in re.findall(r"\{([^}]+)\}", route):
        message: Any = method.input_type
        for name in path.split("."):
            message = message.fields_by_name[name].message_type


@every_method
def test_every_rpc_that_changes_something_or_hands_out_a_secret_is_audited(method: MethodDescriptor) -> None:
    name = method.full_name.removeprefix("cloutagent.v1.")
    options = method.GetOptions()
    reads = http_rule(method).WhichOneof("pattern") == "get"
    expected = name in AUDITED_READS if reads else name not in NOT_AUDITED
    assert options.HasExtension(audit_pb2.audit) == expected
    rule = options.Extensions[audit_pb2.audit]
    if expected:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", rule.action)
    names_secret = method.containing_service.name == "SecretService" and "name" in method.input_type.fields_by_name
    assert rule.secret_field == ("name" if expected and names_secret else "")
    assert rule.changes_secrets == (rule.action in {"secret.set", "secret.delete", "secret.restore_version"})


def test_the_table_of_routes_has_no_other_rows() -> None:
    names = {method.full_name.removeprefix("cloutagent.v1.") for method in methods()}
    assert ROUTES.keys() == names - {name.removeprefix("cloutagent.v1.") for name in WITHOUT_ROUTE}


@every_method
def test_requests_and_answers_are_a_methods_own(method: MethodDescriptor) -> None:
    assert method.input_type.name == f"{method.name}Request"
    own = {f"{method.name}Response"}
    if method.name == "Execute":
        own = {"ExecutionResult"}
    if method.name in ("StreamExecutionEvents", "ExecuteEventStream", "StreamUsage"):
        own = {"HttpBody"}
    assert method.output_type.name in own
    assert not method.client_streaming


def test_no_message_of_the_api_has_an_integer_that_json_writes_as_text() -> None:
    wide = {
        descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_SINT64,
        descriptor_pb2.FieldDescriptorProto.TYPE_FIXED64,
        descriptor_pb2.FieldDescriptorProto.TYPE_SFIXED64,
    }
    for file in files().values():
        for message in file.message_type:
            assert not [field.name for field in message.field if field.type in wide], message.name


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (secret_pb2.SetSecretRequest, "value"),
        (secret_pb2.GetSecretResponse, "value"),
        (secret_pb2.EncryptRequest, "plaintext"),
        (secret_pb2.DecryptResponse, "plaintext"),
    ],
)
def test_secret_values_are_marked_as_such(message: Any, field: str) -> None:
    assert message.DESCRIPTOR.fields_by_name[field].GetOptions().debug_redact


def test_optional_scalars_have_presence() -> None:
    for message, names in (
        (project_pb2.AgentConfig, ("temperature", "max_tokens")),
        (project_pb2.Limits, ("max_tokens", "max_cost", "timeout")),
        (execution_pb2.ExecutionOptions, ("max_tokens", "max_cost", "timeout")),
        (execution_pb2.ExecutionResult, ("result", "error")),
    ):
        fields = message.DESCRIPTOR.fields_by_name
        assert all(fields[name].has_presence for name in names)
    assert system_pb2.DESCRIPTOR.package == "cloutagent.v1"
