"""What `validate-env` checks: the settings themselves, and whether the server could start with them on this machine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dotenv import dotenv_values
from pydantic import AliasChoices

from cloutagent_server import folder_lock, maintenance
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.folder_lock import FolderInUse
from cloutagent_server.service.secret_care import WrongEncryptionKey
from cloutagent_server.settings import ENV_FILE, InvalidSettings, Settings, load
from cloutagent_server.storage.filesystem import FileSystemStorage
from cloutagent_server.storage.filesystem.layout import Layout

KEY_MISSING: Final = "ENCRYPTION_KEY: is required, since PROJECT_ROOT holds secrets that were sealed with one"

# What stands for a faulty setting whose default may be a fault too, so that the others can be checked further.
_HARMLESS: Final = {
    "anthropic_base_url": "http://127.0.0.1",
    "anthropic_api_key": "sk-ant-none",
    "encryption_key": "0" * 64,
    "admin_api_key": "0" * 16,
}
_ALIKE: Final = 0.85


def examine(
    overrides: Mapping[str, Any] = MappingProxyType({}), env_file: Path = ENV_FILE
) -> tuple[Settings | None, list[str]]:
    """The settings if they have no fault, and one line for each fault there is: the variable and what to do.

    `overrides` take precedence over the environment, as in `load`. Nothing is written.
    """
    faults = list(_misspelt(env_file))
    try:
        settings = load(**overrides)
        replaced: Mapping[str, Any] = {}
    except InvalidSettings as error:
        faults += error.faults
        replaced = _replacements({fault.partition(":")[0] for fault in error.faults})
        try:
            settings = load(**{**overrides, **replaced})
        except InvalidSettings:
            return None, faults
    faults += _ports(settings, replaced)
    faults += _hosts(settings, replaced)
    faults += _folders(settings)
    faults += _socket(settings.grpc_socket)
    if not {"encryption_key", "encryption_keys_retired"} & replaced.keys():
        faults += _stored_secrets(settings)
    return (None if faults else settings), faults


def _names() -> dict[str, str]:
    """The field of each variable, the first of a field first."""
    names: dict[str, str] = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [field.upper()]
        names |= {str(choice): field for choice in choices}
    return names


def _replacements(faulty: set[str]) -> Mapping[str, Any]:
    """For the faulty variables, what may stand there instead, by the name that wins over all others of the setting."""
    names = _names()
    fields = {names[name] for name in faulty if name in names}
    aliases = {field: name for name, field in reversed(names.items()) if Settings.model_fields[field].validation_alias}
    return {
        aliases.get(field, field): _HARMLESS.get(field, Settings.model_fields[field].get_default()) for field in fields
    }


def _misspelt(env_file: Path) -> Iterator[str]:
    """Names in the file that are no setting, but nearly: they would be ignored without a word."""
    names = _names()
    for name in dotenv_values(env_file, interpolate=False) if env_file.is_file() else ():
        if name.upper() not in names and (close := get_close_matches(name.upper(), names, 1, _ALIKE)):
            yield f"{name}: is no setting and is ignored; write {close[0]} if that is meant"


def _ports(settings: Settings, replaced: Iterable[str]) -> Iterator[str]:
    seen: dict[int, str] = {}
    for field in [name for name in Settings.model_fields if name == "port" or name.endswith("_port")]:
        port = getattr(settings, field)
        unused = field == "grpc_port" and (settings.grpc_socket is not None or "grpc_socket" in replaced)
        if not port or unused or field in replaced:
            continue
        if port in seen:
            yield f"{field.upper()}: is {port}, as {seen[port]} is; choose another port, or 0 for any free one"
        seen.setdefault(port, field.upper())


def _hosts(settings: Settings, replaced: Iterable[str]) -> Iterator[str]:
    """Addresses that this machine does not have, and names that lead to none.

    Of GRPC_HOST the name only: for an Envoy alone it is that of another machine.
    """
    hosts = ["host", *(["metrics_host"] if settings.metrics_port else [])]
    for field in [name for name in [*hosts, "grpc_host"] if name not in replaced]:
        host = getattr(settings, field)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        except OSError:
            yield f"{field.upper()}: no address of {host} is known; name another host, or an IP address"
            continue
        try:
            with socket.socket(family, kind, protocol) as probe:
                if field in hosts:
                    probe.bind(address)
        except OSError:
            yield f"{field.upper()}: {host} is no address of this machine; choose one of its own"


def _folders(settings: Settings) -> Iterator[str]:
    fields = ["project_root", "run_root", *(["backup_root"] if settings.backup_enabled else [])]
    for field in fields:
        folder: Path = getattr(settings, field)
        if (fault := _unusable(folder)) is not None:
            yield f"{field.upper()}: {fault}"
    try:
        folder_lock.check_apart(settings.project_root, settings.run_root)
    except FolderInUse as fault:
        yield str(fault)
    except OSError:
        pass  # It cannot be looked into: that has been told.


def _socket(path: Path | None) -> Iterator[str]:
    """What keeps the server from listening there: unlike other folders, it makes none for a socket."""
    if path is None:
        return
    if not path.parent.exists():
        yield f"GRPC_SOCKET: {path.parent} is not there; make it, for this user alone"
    elif (fault := _unusable(path.parent)) is not None:
        yield f"GRPC_SOCKET: {fault}"


def _unusable(folder: Path) -> str | None:
    """Why this process cannot make or fill a folder; None if it can."""
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is not a folder; name another one"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written to by this user; change its owner or mode, or name another folder"
    return None


def _stored_secrets(settings: Settings) -> Iterator[str]:
    if not os.access(settings.project_root, os.R_OK | os.X_OK):
        return
    opens = maintenance.fault_of(settings)
    try:
        if opens is None:
            if Layout(settings.project_root).key_check.exists():
                yield KEY_MISSING
            return
        noted = asyncio.run(FileSystemStorage(settings.project_root).secrets.read_key_check())
        if noted is not None and opens(noted) is not None:
            yield str(WrongEncryptionKey()).replace(" does", ": does", 1)
    except StorageUnavailable as fault:
        yield f"PROJECT_ROOT: {fault.cause}"
    except StoredDataDamaged as fault:
        yield f"PROJECT_ROOT: {fault.location}: {fault.fault}; restore it from a backup"
