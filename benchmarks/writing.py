"""Creating and deleting a project, with every fsync."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Final

from benchmarks.harness import MILLISECONDS, Row, compare
from benchmarks.stores import Store, Stores, new_project

_OPERATIONS: Final = 5


async def measure(stores: Stores, rounds: int) -> Sequence[Row]:
    """A creation with the deletion after it."""
    works = {size: partial(_create_and_delete, store) for size, store in stores.items()}
    name = "create and delete a project, without bcrypt (ms)"
    return [await compare(name, works, rounds=rounds, operations=_OPERATIONS, scale=MILLISECONDS)]


async def _create_and_delete(store: Store) -> None:
    generator = random.Random()
    for _ in range(_OPERATIONS):
        draft, credential, _ = new_project("$2b$10$" + "a" * 53, generator)
        project = await store.storage.projects.create(draft, credential)
        await store.storage.projects.delete(project.id)
