"""What the TypeScript client exports, with its comments, as its compiler reads it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

from scripts.proto_image import REPOSITORY

PACKAGE: Final = REPOSITORY / "clients" / "typescript"

_DEADLINE_SECONDS: Final = 60
# Aliases of what is generated for a message or enum: `Printed<cost.Usage, cost.UsageJson>`, `project.LimitsJson`.
_GENERATED: Final = re.compile(r"\b(?:cost|execution|project|secret|system)\.(\w+?)(?:Json)?\b")

Json = Mapping[str, Any]


class CompilerFailed(Exception):
    """The exports could not be read. The message is what was printed."""


@cache
def exports() -> Mapping[str, Sequence[Json]]:
    """What is exported, by the names of the modules that callers import: `index`, `grpc-web`. Read once.

    Each has a `name`, a `kind`, the `module` that declares it, a `comment` and what it `throws`; `tools/api.js` of the
    client says what else. Those of one module stand together, in its order.

    Raises:
        CompilerFailed: The compiler is not installed, or something is exported that it has no words for.
    """
    command = ["node", "tools/api.js"]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=False, timeout=_DEADLINE_SECONDS)
    if done.returncode != 0:
        raise CompilerFailed(f"{done.stderr}\nWithout a compiler, run `make setup`.")
    found: Mapping[str, Sequence[Json]] = json.loads(done.stdout)
    return {name: _in_order(each) for name, each in found.items()}


def message_of(alias: Json) -> str | None:
    """Name of the message or enum of the API that an alias stands for; None if it is no such alias."""
    generated = _GENERATED.search(alias["type"]) if alias["kind"] == "type" else None
    return generated[1].replace("_", ".") if generated else None


def _in_order(exported: Sequence[Json]) -> Sequence[Json]:
    modules = [each["module"] for each in exported]
    return sorted(exported, key=lambda each: (modules.index(each["module"]), each["position"]))
