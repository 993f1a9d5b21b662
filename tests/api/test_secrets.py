"""Secrets: stored sealed, read with the project's key alone, sealed values bound to their project."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.support.api import Json, failing
from tests.support.api.scenario import Projects
from tests.support.api.stage import DEPTHS, GRPC, IN_PROCESS, REST
from tests.support.api.witness import files_with

VALUE = 'hunter2-é-日本-{{x}}-"quoted"\nnext line'


@pytest.mark.depths(*DEPTHS)
async def test_a_secret_is_set_read_listed_and_deleted(projects: Projects) -> None:
    project = await projects()
    assert await project.call("ListSecrets") == {"names": []}
    stored = await project.call("SetSecret", name="TOKEN", value=VALUE)
    assert stored == {"name": "TOKEN", "version": 1, "createdAt": stored["createdAt"], "updatedAt": stored["createdAt"]}
    assert await project.call("GetSecret", name="TOKEN") == {"value": VALUE}
    await project.call("SetSecret", name="A_2", value="")
    assert await project.call("GetSecret", name="A_2") == {"value": ""}
    assert await project.call("ListSecrets") == {"names": ["A_2", "TOKEN"]}
    assert await project.call("DeleteSecret", name="TOKEN", http=204) == {}
    assert await project.call("ListSecrets") == {"names": ["A_2"]}


async def test_setting_again_replaces_the_value(projects: Projects) -> None:
    project = await projects()
    for value in ("first", "second"):
        await project.call("SetSecret", name="TOKEN", value=value)
    assert await project.call("GetSecret", name="TOKEN") == {"value": "second"}
    assert await project.call("ListSecrets") == {"names": ["TOKEN"]}


async def test_a_missing_secret_is_404(projects: Projects) -> None:
    project = await projects()
    asked: dict[str, Json] = {"RestoreSecretVersion": {"version": 1}}
    for rpc in ("GetSecret", "DeleteSecret", "GetSecretMetadata", "ListSecretVersions", "RestoreSecretVersion"):
        with failing("NOT_FOUND", 404, "SECRET_NOT_FOUND") as caught:
            await project.call(rpc, name="NOPE", **asked.get(rpc, {}))
        assert caught.failure.metadata == {"name": "NOPE"}


async def test_names_are_held_to_their_rule(projects: Projects) -> None:
    project = await projects()
    for name in ("1A", "A-B", "A B", "A.B", "Ä", "x" * 129, "{{A}}"):
        for rpc in ("SetSecret", "GetSecret", "DeleteSecret"):
            given: Json = {"name": name, "value": "x"} if rpc == "SetSecret" else {"name": name}
            with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
                await project.call(rpc, **given)
            assert list(caught.failure.violations) == ["name"]
    for name in ("_", "a", "Z9_", "x" * 128):
        await project.call("SetSecret", name=name, value=name)
        assert await project.call("GetSecret", name=name) == {"value": name}


async def test_values_may_have_64_kib(projects: Projects) -> None:
    project = await projects()
    for value in ("x" * 65_536, "é" * 32_768):
        await project.call("SetSecret", name="BIG", value=value)
        assert await project.call("GetSecret", name="BIG") == {"value": value}
    refused: list[Json] = [{"value": "x" * 65_537}, {"value": "é" * 32_768 + "x"}, {}]
    for fields in refused:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("SetSecret", name="BIG", **fields)
        assert list(caught.failure.violations) == ["value"]
    assert await project.call("GetSecret", name="BIG") == {"value": "é" * 32_768}


@pytest.mark.depths(*DEPTHS)
async def test_versions_are_listed_read_and_restored(projects: Projects) -> None:
    project = await projects()
    stored: Json = {}
    for number in range(1, 13):
        stored = await project.call("SetSecret", name="TOKEN", value=f"value {number}")
        assert stored["version"] == number
    assert await project.call("GetSecretMetadata", name="TOKEN") == stored
    versions = (await project.call("ListSecretVersions", name="TOKEN"))["versions"]
    assert [kept["version"] for kept in versions] == list(range(12, 2, -1))
    assert versions[0]["createdAt"] == stored["updatedAt"]
    assert versions[0]["createdAt"] >= versions[-1]["createdAt"] >= stored["createdAt"]
    for number in (3, 7, 12):
        assert await project.call("GetSecret", name="TOKEN", version=number) == {"value": f"value {number}"}
    restored = await project.call("RestoreSecretVersion", name="TOKEN", version=3)
    assert restored == {**stored, "version": 13, "updatedAt": restored["updatedAt"]}
    assert await project.call("GetSecret", name="TOKEN") == {"value": "value 3"}
    assert await project.call("GetSecret", name="TOKEN", version=12) == {"value": "value 12"}
    for rpc in ("GetSecret", "RestoreSecretVersion"):
        with failing("NOT_FOUND", 404, "SECRET_VERSION_NOT_FOUND") as caught:
            await project.call(rpc, name="TOKEN", version=3)
        assert caught.failure.metadata == {"name": "TOKEN", "version": "3"}
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call(rpc, name="TOKEN", version=0)
        assert list(caught.failure.violations) == ["version"]


@pytest.mark.depths(*DEPTHS)
async def test_a_writer_that_expects_another_version_is_refused(projects: Projects) -> None:
    project = await projects()

    async def refused(expected: int, current: str) -> None:
        with failing("ABORTED", 409, "SECRET_VERSION_CONFLICT") as caught:
            await project.call("SetSecret", name="TOKEN", value="late", expectedVersion=expected)
        assert caught.failure.metadata == {"name": "TOKEN", "version": current}

    await refused(1, "0")
    assert (await project.call("SetSecret", name="TOKEN", value="a", expectedVersion=0))["version"] == 1
    await refused(0, "1")
    await refused(2, "1")
    assert (await project.call("SetSecret", name="TOKEN", value="b", expectedVersion=1))["version"] == 2
    assert await project.call("GetSecret", name="TOKEN") == {"value": "b"}
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await project.call("SetSecret", name="TOKEN", value="c", expectedVersion=-1)
    assert list(caught.failure.violations) == ["expectedVersion"]
    await project.call("DeleteSecret", name="TOKEN", http=204)
    await refused(2, "0")


async def test_projects_do_not_share_secrets(projects: Projects) -> None:
    project, other = await projects(), await projects()
    await project.call("SetSecret", name="TOKEN", value="mine")
    assert await other.call("ListSecrets") == {"names": []}
    with failing("NOT_FOUND", 404, "SECRET_NOT_FOUND"):
        await other.call("GetSecret", name="TOKEN")


@pytest.mark.depths(IN_PROCESS, GRPC, REST)
async def test_an_altered_secret_is_data_loss_and_the_log_names_it(
    projects: Projects, data_folder: Path, server_log: io.StringIO
) -> None:
    project = await projects()
    for name in ("TOKEN", "OTHER"):
        await project.call("SetSecret", name=name, value="hunter2-plain")
    path = data_folder / project.id / ".secrets" / "secrets.enc"
    sealed = json.loads(path.read_text())
    path.write_text(json.dumps({**sealed, "TOKEN": sealed["OTHER"]}))
    with failing("DATA_LOSS", 500, "STORED_DATA_DAMAGED") as caught:
        await project.call("GetSecret", name="TOKEN")
    assert "TOKEN" not in caught.failure.message
    assert f"secret TOKEN of project {project.id}" in server_log.getvalue()
    assert "it was moved" in server_log.getvalue()
    assert await project.call("GetSecret", name="OTHER") == {"value": "hunter2-plain"}
    assert (await project.call("SetSecret", name="TOKEN", value="new"))["version"] == 2
    assert await project.call("GetSecret", name="TOKEN") == {"value": "new"}


@pytest.mark.depths(IN_PROCESS, GRPC, REST)
async def test_secrets_lie_on_disk_in_the_contracts_format(projects: Projects, data_folder: Path) -> None:
    project = await projects()
    await project.call("SetSecret", name="TOKEN", value="hunter2-plain")
    path = data_folder / project.id / ".secrets" / "secrets.enc"
    sealed = json.loads(json.loads(path.read_text())["TOKEN"])
    assert set(sealed) == {"iv", "authTag", "encrypted"}
    assert [len(bytes.fromhex(sealed[part])) for part in ("iv", "authTag", "encrypted")] == [16, 16, 13]
    assert path.stat().st_mode & 0o777 == 0o600
    assert not files_with(data_folder, "hunter2-plain")


async def test_what_is_encrypted_is_decrypted(projects: Projects) -> None:
    project = await projects()
    for value in (VALUE, "", "x" * 65_536):
        first = (await project.call("Encrypt", plaintext=value))["ciphertext"]
        second = (await project.call("Encrypt", plaintext=value))["ciphertext"]
        assert first != second
        sealed = json.loads(first)
        assert set(sealed) == {"iv", "authTag", "encrypted"}
        assert [len(sealed["iv"]), len(sealed["authTag"])] == [32, 32]
        for ciphertext in (first, second):
            assert await project.call("Decrypt", ciphertext=ciphertext) == {"plaintext": value}


@pytest.mark.depths(*DEPTHS)
async def test_another_project_cannot_decrypt(projects: Projects) -> None:
    project, other = await projects(), await projects()
    ciphertext = (await project.call("Encrypt", plaintext="mine"))["ciphertext"]
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await other.call("Decrypt", ciphertext=ciphertext)
    assert list(caught.failure.violations) == ["ciphertext"]


async def test_what_was_tampered_with_cannot_be_decrypted(projects: Projects) -> None:
    project = await projects()
    ciphertext = (await project.call("Encrypt", plaintext="mine"))["ciphertext"]
    sealed = json.loads(ciphertext)
    tampered = [json.dumps({**sealed, part: _flipped(value)}) for part, value in sealed.items()]
    tampered += [json.dumps({**sealed, part: value[:-2]}) for part, value in sealed.items()]
    tampered += [json.dumps({**sealed, part: "zz"}) for part in sealed]
    tampered += ["nonsense", "[]", "{}", json.dumps({**sealed, "iv": 1}), ciphertext[:-1]]
    for altered in tampered:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call("Decrypt", ciphertext=altered)
        assert list(caught.failure.violations) == ["ciphertext"]
        assert "mine" not in caught.failure.message


async def test_sealing_has_its_limits(projects: Projects) -> None:
    project = await projects()
    refused: list[tuple[str, Json, str]] = [
        ("Encrypt", {}, "plaintext"),
        ("Encrypt", {"plaintext": "x" * 65_537}, "plaintext"),
        ("Decrypt", {}, "ciphertext"),
        ("Decrypt", {"ciphertext": "x" * 262_145}, "ciphertext"),
    ]
    for rpc, fields, field in refused:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await project.call(rpc, **fields)
        assert list(caught.failure.violations) == [field]


def _flipped(text: str) -> str:
    return ("1" if text[0] == "0" else "0") + text[1:]
