"""Addresses, keys and where they come from; what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from cloutagent import AsyncClient, Client
from cloutagent._address import Endpoint, parse
from cloutagent._configuration import Configuration, configure
from cloutagent._identity import user_agent
from cloutagent.errors import ApiError, AuthenticationError, ConfigurationError
from tests.clients_python.conftest import agent
from tests.support.python_client.two_clients import Kind, make_client


@pytest.mark.parametrize(
    ("address", "target", "tls", "local"),
    [
        ("http://127.0.0.1:3001", "dns:///127.0.0.1:3001", False, True),
        ("http://localhost:3001/", "dns:///localhost:3001", False, True),
        ("localhost", "dns:///localhost:3001", False, True),
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051", False, True),
        ("[::1]:3001", "dns:///[::1]:3001", False, True),
        ("http://agents.example", "dns:///agents.example:80", False, False),
        ("https://agents.example", "dns:///agents.example:443", True, False),
        ("HTTPS://agents.example:8443/", "dns:///agents.example:8443", True, False),
        ("agents.example:3001", "dns:///agents.example:3001", True, False),
        ("https://127.0.0.1:1", "dns:///127.0.0.1:1", True, True),
        ("https://dns:443", "dns:///dns:443", True, False),
        ("https://unix", "dns:///unix:443", True, False),
        ("ipv4:8443", "dns:///ipv4:8443", True, False),
        ("unix:/run/cloutagent.sock", "unix:/run/cloutagent.sock", False, True),
    ],
)
def test_addresses(address: str, target: str, tls: bool, local: bool) -> None:
    assert parse(address) == Endpoint(target, tls, local)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ftp://agents.example",
        "http://",
        "http://host:port",
        "host:99999",
        "host:0",
        "https://host:secret",
        "https://[secret",
        "http://host/api/v1",
        "http://user:secret@host",
        "https://host?key=secret",
    ],
)
def test_malformed_addresses_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigurationError, match="malformed") as caught:
        parse(address)
    assert "secret" not in str(caught.value)


def configured(**changes: Any) -> Configuration:
    """A configuration of these arguments."""
    given: dict[str, Any] = {
        "address": None,
        "api_key": None,
        "project_id": None,
        "timeout": 30.0,
        "retry": None,
        "ca_file": None,
        "allow_plaintext_key": False,
    }
    return configure(**{**given, **changes})


def test_arguments_come_before_the_environment_and_that_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    default = configured()
    assert (str(default.endpoint), default.api_key, default.project_id) == ("http://127.0.0.1:3001", None, None)
    monkeypatch.setenv("CLOUTAGENT_ADDRESS", "https://agents.example")
    monkeypatch.setenv("CLOUTAGENT_API_KEY", "cla_env\n")
    monkeypatch.setenv("CLOUTAGENT_PROJECT_ID", "p")
    found = configured()
    assert (str(found.endpoint), found.api_key, found.project_id) == ("https://agents.example:443", "cla_env", "p")
    given = configured(address="localhost", api_key="cla_given", project_id="q")
    assert (str(given.endpoint), given.api_key, given.project_id) == ("http://localhost:3001", "cla_given", "q")
    assert configured(api_key="").api_key is None, "an empty key stands for none"
    assert configured(project_id="").project_id is None, "and so does an empty project"


def test_a_key_goes_to_another_machine_in_plain_text_only_if_it_is_allowed() -> None:
    with pytest.raises(ConfigurationError, match="plain text") as caught:
        configured(address="http://10.0.0.7:3001", api_key="cla_key")
    assert "cla_key" not in str(caught.value)
    assert configured(address="http://10.0.0.7:3001", api_key="cla_key", allow_plaintext_key=True).api_key == "cla_key"
    assert configured(address="http://10.0.0.7:3001").api_key is None
    assert configured(address="10.0.0.7:3001", api_key="cla_key").endpoint.tls


CONFIDENTIAL: dict[str, Callable[[AsyncClient], Any]] = {
    "secrets.set": lambda client: client.secrets.set("TOKEN", "s3cret"),
    "secrets.get": lambda client: client.secrets.get("TOKEN"),
    "secrets.encrypt": lambda client: client.secrets.encrypt("s3cret"),
    "secrets.decrypt": lambda client: client.secrets.decrypt("sealed"),
    "projects.create": lambda client: client.projects.create(name="notes", agent=agent()),
    "keys.create": lambda client: client.keys.create(name="ci"),
    "keys.rotate": lambda client: client.keys.rotate(),
}


@pytest.mark.parametrize("project_id", [None, "p"])
@pytest.mark.parametrize("call", CONFIDENTIAL)
async def test_no_secret_and_no_new_key_goes_in_plain_text_without_a_key_either(
    call: str, project_id: str | None, kind: Kind, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To the client, the server is on another machine.
    monkeypatch.setattr("cloutagent._address._is_loopback", lambda _: False)
    async with make_client(kind, address=address, project_id=project_id) as client:
        with pytest.raises(ConfigurationError, match="in plain text") as caught:
            await CONFIDENTIAL[call](client)
        assert "s3cret" not in str(caught.value)
        assert client._transport._connection is None, "nothing was sent"
        with pytest.raises(ApiError):
            await client.secrets.list()


@pytest.mark.parametrize("call", CONFIDENTIAL)
async def test_what_is_confidential_goes_in_plain_text_if_it_is_allowed_and_on_this_machine(
    call: str, kind: Kind, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_client(kind, address=address) as client:
        with pytest.raises(AuthenticationError):
            await CONFIDENTIAL[call](client)
    monkeypatch.setattr("cloutagent._address._is_loopback", lambda _: False)
    async with make_client(kind, address=address, allow_plaintext_key=True) as client:
        with pytest.raises(AuthenticationError):
            await CONFIDENTIAL[call](client)


def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated() -> None:
    for key in ("cla_a\nb", "clé"):
        with pytest.raises(ConfigurationError) as caught:
            configured(api_key=key)
        assert key not in str(caught.value)


def test_other_faults_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        configured(timeout=0)
    with pytest.raises(ConfigurationError, match="TLS"):
        configured(address="http://localhost", ca_file=tmp_path / "ca.pem")
    with pytest.raises(FileNotFoundError):
        configured(address="https://localhost", ca_file=tmp_path / "ca.pem")


def test_a_configuration_does_not_show_the_key() -> None:
    assert "cla_key" not in repr(configured(api_key="cla_key"))


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("cloutagent._identity.version", version)
    assert user_agent() == "cloutagent-python/unknown"


@pytest.mark.parametrize("names", ["Client, CloutAgentError, RetryPolicy, errors, types", "AsyncClient"])
def test_an_import_loads_neither_grpc_nor_asyncio(names: str) -> None:
    program = f"import sys; from cloutagent import {names}; print({{'asyncio', 'grpc'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_a_client_that_was_forked_says_so(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(address="unix:/nowhere") as client:
        assert client._transport.connection is not None
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="fork"):
            client.system.health()


async def test_a_client_for_asyncio_belongs_to_one_loop() -> None:
    async with AsyncClient(address="unix:/nowhere") as client:
        assert client._transport.connection is not None
        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.to_thread(asyncio.run, client.system.health())
