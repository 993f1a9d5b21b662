"""How the server's process uses the interpreter: for a process that is a server and nothing else."""

from __future__ import annotations

import gc
import sys
from typing import Final

# How long a thread of the storage may keep the event loop waiting for the interpreter (Python's own: 5 ms).
_SWITCH_SECONDS: Final = 0.0005
# After how many new objects garbage is looked for (Python's own: 700, which one event to a hundred watchers passes).
_NEW_OBJECTS: Final = 10_000


def settle() -> None:
    """To be called once the server is built.

    What was imported and built stays until the end, so the search for garbage passes it over: a full one would look at
    a few hundred thousand objects, and stop the event loop for more than 100 ms.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS)


def keep() -> None:
    """What was imported since then stays, too. For any thread.

    What is new is searched for garbage, which would stay as well.
    """
    gc.collect(1)
    gc.freeze()
