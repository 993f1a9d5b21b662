"""Authentication and GetProject: what every call pays."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import Final
from unittest import mock

import bcrypt

from benchmarks.harness import MILLISECONDS, Row, Work, compare
from benchmarks.stores import Known, Store, Stores
from cloutagent_server.engine.base import Engine
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.service import auth
from cloutagent_server.service.auth import BCRYPT_COST, Authenticator, digest_of
from cloutagent_server.service.executions import ExecutionService
from cloutagent_server.service.key_uses import KeyUses
from cloutagent_server.service.projects import ProjectService

# The issue's: flat within this.
FLAT: Final = 1.2

# Short turns, many of them: what else the machine does meets all sizes alike.
_OPERATIONS: Final = 25
_TURNS: Final = 8


async def measure(stores: Stores, rounds: int) -> Sequence[Row]:
    """Cold and warm authentication with the look-up that both make, GetProject, and bcrypt by itself."""
    rows = [await _flat("look up a key's digest (µs)", {size: partial(_find, stores[size]) for size in stores}, rounds)]
    authenticators = {size: Authenticator(store.storage.projects) for size, store in stores.items()}
    authenticate = {size: partial(_authenticate, authenticators[size], stores[size]) for size in stores}
    with (
        mock.patch.object(bcrypt, "checkpw", return_value=True),
        # Noted uses would be written while something else is measured.
        mock.patch.object(KeyUses, "note", return_value=None),
    ):
        with mock.patch.object(auth, "CACHE_SECONDS", -1.0):
            rows.append(await _flat("authenticate, cold, without bcrypt (µs)", authenticate, rounds))
        rows.append(await _flat("authenticate, warm (µs)", authenticate, rounds))
    rows.append(Row("bcrypt, once for a cold key (ms)", {max(stores): _bcrypt_milliseconds()}))
    get = {size: partial(_get, _service(authenticators[size], stores[size]), stores[size]) for size in stores}
    rows.append(await _flat("GetProject (µs)", get, rounds))
    for authenticator in authenticators.values():
        await authenticator.stop()
    return rows


async def _flat(name: str, works: Mapping[int, Work], rounds: int) -> Row:
    return await compare(name, works, rounds=rounds * _TURNS, operations=_OPERATIONS, most_ratio=FLAT)


async def _find(store: Store) -> None:
    for known in _some(store):
        owner = await store.storage.projects.find_key(digest_of(known.api_key))
        assert owner is not None and owner.project.id == known.project_id


async def _authenticate(authenticator: Authenticator, store: Store) -> None:
    for known in _some(store):
        principal = await authenticator.authenticate(known.api_key)
        assert principal is not None and principal.project is not None and principal.project.id == known.project_id


async def _get(service: ProjectService, store: Store) -> None:
    for known in _some(store):
        assert (await service.get(known.project_id)).id == known.project_id


def _some(store: Store) -> Sequence[Known]:
    return random.choices(store.sample, k=_OPERATIONS)


def _service(authenticator: Authenticator, store: Store) -> ProjectService:
    """The service, for what needs neither executions nor an engine."""
    executions, engine = mock.create_autospec(ExecutionService), mock.create_autospec(Engine)
    return ProjectService(store.storage.projects, authenticator, executions, GenaiPriceList(), engine)


def _bcrypt_milliseconds() -> float:
    hashed = bcrypt.hashpw(b"key", bcrypt.gensalt(BCRYPT_COST))
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        bcrypt.checkpw(b"key", hashed)
        times.append((time.perf_counter() - begun) * MILLISECONDS)
    return median(times)
