"""`python -m scripts.packaging.smoke` (`make smoke`) tries what `make dist` made, installed in empty environments.

The server is started there with its local model, and the lines of Python in the README run against it as they are
printed. `--python` chooses the interpreter of the client's environment. It needs the package index.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.demo.stack import Stack, StackFailed
from scripts.packaging import npm
from scripts.packaging.build import REPOSITORY
from scripts.packaging.environment import EmptyEnvironment

CLIENT_WHEEL: Final = "cloutagent-*.whl"
SERVER_WHEEL: Final = "cloutagent_server-*.whl"
NPM_PACKAGE: Final = "cloutagent-*.tgz"
IMPORT_SECONDS: Final = 0.3
"""Processor time that the import of the client's package and of its client may take."""

# What nobody waits for who imports the client: the server and what programs for people are made with.
_FOREIGN: Final = ("cloutagent_server", "typer", "rich", "pydantic", "aiohttp", "httpx")
_MEASURED: Final = f"""
import json, sys, time
begun = time.process_time()
from cloutagent import Client
imported = time.process_time() - begun
Client(address="http://127.0.0.1:1").close()
made = time.process_time() - begun
foreign = [name for name in {_FOREIGN!r} if name in sys.modules]
print(json.dumps({{"imported": imported, "made": made, "foreign": foreign}}))
"""
_INSTALLED: Final = """
import json
from importlib.metadata import distributions
print(json.dumps(sorted(each.name for each in distributions())))
"""


class SmokeFailed(Exception):
    """What was installed does not work."""


def readme_lines() -> str:
    """The lines of Python in the README's section `From Python`."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## From Python$(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    found = re.search(r"^```python\n(.*?)^```$", section[1] if section else "", re.DOTALL | re.MULTILINE)
    if found is None:
        raise SmokeFailed("the README has no Python under `From Python`")
    return found[1]


def check_imports(client: EmptyEnvironment) -> str:
    """Check what importing the client costs and brings along; what was measured, in words.

    Raises:
        SmokeFailed: It takes too long, or brings what it should not, or the server is installed with it.
    """
    installed = json.loads(client.run(_INSTALLED))
    if "cloutagent" not in installed or "cloutagent-server" in installed:
        raise SmokeFailed(f"the client was installed as {installed}")
    client.run("from cloutagent import Client")  # compiles the byte code
    runs = [json.loads(client.run(_MEASURED)) for _ in range(3)]
    if foreign := runs[0]["foreign"]:
        raise SmokeFailed(f"importing the client imports {', '.join(foreign)}")
    imported, made = (min(run[name] for run in runs) for name in ("imported", "made"))
    if imported > IMPORT_SECONDS:
        raise SmokeFailed(f"importing the client takes {imported:.3f} s of processor time")
    return f"import {imported * 1000:.0f} ms, with the first client {made * 1000:.0f} ms"


def check_readme(client: EmptyEnvironment, address: str) -> str:
    """Run the README's lines against the stack at `address`; what they printed.

    Raises:
        CalledProcessError: They fail.
    """
    return client.run(readme_lines(), CLOUTAGENT_ADDRESS=address)


def built(folder: Path, pattern: str) -> Path:
    """The one file in `folder` whose name is like this. Raises SmokeFailed if there is not just one."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SmokeFailed(f"{len(found)} files {pattern} in {folder}: run `make dist`")
    return found[0]


def try_out(dist: Path, folder: Path, python: str = sys.executable) -> None:
    """Install and try all that was built; `python` is the interpreter of the client's environment.

    Raises:
        SmokeFailed, StackFailed, CalledProcessError, NpmFailed: Something does not work.
    """
    client = EmptyEnvironment(folder / "client", python)
    client.install(built(dist, CLIENT_WHEEL))
    print(f"client: {client.run('import sys; print(sys.version.split()[0])').strip()}, {check_imports(client)}")
    server = EmptyEnvironment(folder / "server")
    server.install(built(dist, SERVER_WHEEL), built(dist, CLIENT_WHEEL))
    (folder / "stack").mkdir()
    with Stack(folder / "stack", live=False, scripts=server.scripts) as stack:
        print(f"server: up, version {health_version(client, stack.url)}")
        print(f"README: {check_readme(client, stack.url).strip()!r}")
        print(f"npm package: {npm.try_package(built(dist, NPM_PACKAGE), folder / 'npm', stack.url)}")


def health_version(client: EmptyEnvironment, address: str) -> str:
    """The version that the server at `address` tells."""
    code = "from cloutagent import Client; print(Client().system.health().version)"
    return client.run(code, CLOUTAGENT_ADDRESS=address).strip()


def main(arguments: list[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="smoke", description=__doc__)
    parser.add_argument("--dist", type=Path, default=REPOSITORY / "dist", help="folder of what `make dist` made")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the client's environment")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        try:
            try_out(options.dist, Path(folder), options.python)
        except (SmokeFailed, StackFailed, npm.NpmFailed, subprocess.CalledProcessError) as failure:
            print(failure, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
