"""Access: every method has a rule, and each rule lets in whom it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from cloutagent.v1 import access_pb2, execution_pb2, project_pb2
from cloutagent_server.domain.errors import (
    AccessDenied,
    ApiKeyInvalid,
    ApiKeyMissing,
    AuthenticationRateLimited,
    ExecutionNotFound,
    ProjectNotFound,
)
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Project
from cloutagent_server.service.attempts import FailedAttempts
from cloutagent_server.service.auth import Principal
from cloutagent_server.transport.access import FOREIGN_RULES, AccessControl, MissingRule, Rules, rules_of
from cloutagent_server.transport.server import FILES
from tests.support.service_world import World, draft, make_world

ADMIN_KEY = "an-admin-key-of-some-length"
SOURCE = "203.0.113.9"
ADMIN = Principal(None, "admin")


@pytest.fixture
def world() -> Iterator[World]:
    made = make_world()
    yield made
    made.authenticator.close()


def control(world: World) -> AccessControl:
    return AccessControl(world.authenticator, world.projects, world.executions, FailedAttempts(per_minute=3))


@pytest.fixture
def access(world: World) -> AccessControl:
    return control(world)


def of(project: Project) -> Principal:
    return Principal(project, "key")


def get(project_id: str) -> Message:
    return project_pb2.GetProjectRequest(project_id=project_id)


# The rules of methods.


def with_rule(rule: access_pb2.Access | None) -> FileDescriptor:
    """A file with one method under this rule."""
    name = f"test_{new_id().replace('-', '')}"
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto3")
    file.dependency.append("cloutagent/v1/project.proto")
    method = file.service.add(name="Service").method.add(name="Method")
    method.input_type = ".cloutagent.v1.UpdateProjectRequest"
    method.output_type = ".cloutagent.v1.UpdateProjectResponse"
    if rule is not None:
        method.options.Extensions[access_pb2.access].CopyFrom(rule)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


def test_every_method_of_the_api_has_a_rule() -> None:
    rules = rules_of(FILES)
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert rules.keys() == methods | FOREIGN_RULES.keys()
    assert len(methods) >= 25


def test_only_health_is_open_to_anyone_for_ever() -> None:
    rules = rules_of(FILES)
    opened = {path for path, rule in rules.items() if rule.anyone} - FOREIGN_RULES.keys()
    assert opened == {"/cloutagent.v1.SystemService/GetHealth"}
    until = {path for path, rule in rules.items() if rule.anyone_until_admin_key}
    assert until == {"/cloutagent.v1.ProjectService/CreateProject"}


@pytest.mark.parametrize(
    "rule",
    [
        None,
        access_pb2.Access(),
        access_pb2.Access(anyone=False),
        access_pb2.Access(may_be_missing=True),
        access_pb2.Access(project_field=""),
        access_pb2.Access(project_field="project_id"),
        access_pb2.Access(project_field="project.nothing"),
        access_pb2.Access(execution_field="project.id.deeper"),
    ],
)
def test_a_method_without_a_proper_rule_is_refused_at_start(rule: access_pb2.Access | None) -> None:
    with pytest.raises(MissingRule, match=r"Service\.Method"):
        rules_of([with_rule(rule)])


def test_a_proper_rule_is_found_by_path() -> None:
    file = with_rule(access_pb2.Access(project_field="project.id"))
    rules: Rules = rules_of([file])
    assert rules[f"/{file.package}.Service/Method"].project_field == "project.id"


# Keys.


@pytest.mark.parametrize(
    ("rule", "without_admin", "with_admin"),
    [
        (access_pb2.Access(anyone=True), False, False),
        (access_pb2.Access(anyone_until_admin_key=True), False, True),
        (access_pb2.Access(any_key=True), True, True),
        (access_pb2.Access(project_field="project_id"), True, True),
        (access_pb2.Access(execution_field="execution_id"), True, True),
    ],
)
def test_which_rules_need_a_key(rule: access_pb2.Access, without_admin: bool, with_admin: bool) -> None:
    assert control(make_world()).needs_key(rule) is without_admin
    assert control(make_world(admin_key=ADMIN_KEY)).needs_key(rule) is with_admin


@pytest.mark.parametrize("missing", [None, ""])
async def test_no_key_is_missing(access: AccessControl, missing: str | None) -> None:
    with pytest.raises(ApiKeyMissing):
        await access.identify(missing, SOURCE)


async def test_a_wrong_key_is_invalid_and_a_right_one_is_somebodys(world: World, access: AccessControl) -> None:
    project, key = await world.projects.create(draft())
    for wrong in ("wrong", f"cla_{new_id()}", ADMIN_KEY):
        with pytest.raises(ApiKeyInvalid):
            await access.identify(wrong, SOURCE)
    assert (await access.identify(key, SOURCE)).project == project
    assert (await control(make_world(admin_key=ADMIN_KEY)).identify(ADMIN_KEY, SOURCE)).admin


async def test_wrong_keys_alone_are_limited_by_their_source(world: World, access: AccessControl) -> None:
    project, key = await world.projects.create(draft())
    for _ in range(3):
        assert (await access.identify(key, SOURCE)).project == project
        with pytest.raises(ApiKeyInvalid):
            await access.identify("wrong", SOURCE)
        with pytest.raises(ApiKeyMissing):
            await access.identify(None, SOURCE)
    with pytest.raises(AuthenticationRateLimited) as caught:
        await access.identify("wrong", SOURCE)
    assert 1 <= caught.value.retry_seconds <= 20
    with pytest.raises(ApiKeyInvalid):
        await access.identify("wrong", "203.0.113.10")
    assert (await access.identify(key, SOURCE)).project == project


# Resources.

PROJECT_RULE = access_pb2.Access(project_field="project_id")
EXISTS_RULE = access_pb2.Access(project_field="project_id", may_be_missing=True)
EXECUTION_RULE = access_pb2.Access(execution_field="execution_id")


async def test_a_project_is_open_to_its_key_and_the_admin(world: World, access: AccessControl) -> None:
    project, other = await world.project(), await world.project()
    for rule in (PROJECT_RULE, EXISTS_RULE):
        await access.check(rule, of(project), get(project.id))
        await access.check(rule, ADMIN, get(project.id))
        with pytest.raises(AccessDenied):
            await access.check(rule, of(other), get(project.id))


@pytest.mark.parametrize("missing", ["6d0f2c1e-0000-4000-8000-000000000000", "", "no-uuid", "../x"])
async def test_a_project_that_does_not_exist_is_not_found(world: World, access: AccessControl, missing: str) -> None:
    for principal in (of(await world.project()), ADMIN):
        with pytest.raises(ProjectNotFound):
            await access.check(PROJECT_RULE, principal, get(missing))
        await access.check(EXISTS_RULE, principal, get(missing))


async def test_a_field_of_a_field_names_the_project(world: World, access: AccessControl) -> None:
    project, other = await world.project(), await world.project()
    rule = access_pb2.Access(project_field="project.id")
    request = project_pb2.UpdateProjectRequest(project=project_pb2.Project(id=project.id))
    await access.check(rule, of(project), request)
    with pytest.raises(AccessDenied):
        await access.check(rule, of(other), request)
    with pytest.raises(ProjectNotFound):
        await access.check(rule, of(other), project_pb2.UpdateProjectRequest())


async def test_an_execution_is_open_to_its_projects_key_and_the_admin(world: World, access: AccessControl) -> None:
    project, other = await world.project(), await world.project()
    execution = await world.run(project)
    request = execution_pb2.GetExecutionRequest(execution_id=execution.id)
    await access.check(EXECUTION_RULE, of(project), request)
    await access.check(EXECUTION_RULE, ADMIN, request)
    with pytest.raises(AccessDenied):
        await access.check(EXECUTION_RULE, of(other), request)
    for principal in (of(project), ADMIN):
        with pytest.raises(ExecutionNotFound):
            await access.check(EXECUTION_RULE, principal, execution_pb2.GetExecutionRequest(execution_id=new_id()))


async def test_rules_without_a_resource(world: World, access: AccessControl) -> None:
    principal = of(await world.project())
    for rule in (access_pb2.Access(anyone=True), access_pb2.Access(any_key=True)):
        await access.check(rule, principal, get(new_id()))
    admins_own = access_pb2.Access(anyone_until_admin_key=True)
    await access.check(admins_own, ADMIN, get(new_id()))
    with pytest.raises(AccessDenied):
        await access.check(admins_own, principal, get(new_id()))


async def test_wrong_keys_do_not_lock_out_an_admin_key_that_nobody_guesses() -> None:
    key = "0123456789abcdef" * 2
    world = make_world(admin_key=key)
    access = control(world)
    for _ in range(3):
        with pytest.raises(ApiKeyInvalid):
            await access.identify("wrong", SOURCE)
    for wrong in ("wrong", key[:-1], key[:-1] + "e"):
        with pytest.raises(AuthenticationRateLimited):
            await access.identify(wrong, SOURCE)
        assert await access.identify(key, SOURCE) == ADMIN
    world.authenticator.close()


@pytest.mark.parametrize("guess", ["the-wrong-admin-key-1", "cla_0a000000-0000-4000-8000-00000000000f"])
async def test_guesses_of_a_short_admin_key_are_limited_and_a_right_one_beyond_the_limit_tells_nothing(
    guess: str,
) -> None:
    world = make_world(admin_key=ADMIN_KEY)
    access = control(world)
    project, key = await world.projects.create(draft())
    assert await access.identify(ADMIN_KEY, SOURCE) == ADMIN
    for _ in range(3):
        with pytest.raises(ApiKeyInvalid):
            await access.identify(guess, SOURCE)
    refusals = []
    for attempt in (guess, ADMIN_KEY):
        with pytest.raises(AuthenticationRateLimited) as refused:
            await access.identify(attempt, SOURCE)
        refusals.append((refused.value.message, refused.value.metadata))
    assert refusals[0] == refusals[1]
    assert (await access.identify(key, SOURCE)).project == project
    assert await access.identify(ADMIN_KEY, "203.0.113.10") == ADMIN
    world.authenticator.close()
