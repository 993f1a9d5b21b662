"""The npm package: packed with the tools that `make setup` installed, and tried where nothing else is installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
PACKAGE: Final = Path("clients/typescript")

_OPTIONS: Final = ("--silent", "--no-audit", "--no-fund", "--no-update-notifier")
_PROGRAM: Final = """
import { CloutAgentClient } from 'cloutagent';
import 'cloutagent/v1';

const admin = new CloutAgentClient();
const agent = { name: 'assistant', systemPrompt: 'You answer customers.', model: 'claude-sonnet-4-5' };
const created = await admin.projects.create({ name: 'Smoke', agent });
const client = new CloutAgentClient(undefined, { apiKey: created.apiKey });
const kinds = [];
const started = await client.executions.start('Greet Ada.');
for await (const event of client.executions.watch(started.id)) {
  kinds.push(event.kind);
}
const { version } = await client.system.health();
const { result } = await client.executions.get(started.id);
console.log(JSON.stringify({ version, first: kinds.at(0), last: kinds.at(-1), result }));
"""


class NpmFailed(Exception):
    """npm or node ended with an error. The message is what was printed."""


def pack(package: Path, out: Path) -> None:
    """Compile and pack the npm package in `package`, a copy of its sources, into the folder `out`.

    Raises:
        NpmFailed: It could not be compiled or packed.
    """
    # npm packs files with the modes that they have, and so tells whose umask it was.
    for path in package.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    (package / "node_modules").symlink_to(REPOSITORY / PACKAGE / "node_modules")
    out.mkdir(parents=True, exist_ok=True)
    _run(["npm", "pack", *_OPTIONS, "--pack-destination", str(out.resolve())], package)


def try_package(tarball: Path, folder: Path, address: str) -> Any:
    """Install a packed package into an empty folder and run a program with it against the stack at `address`.

    Its dependencies are those that package-lock.json pins. Returns what the program saw.

    Raises:
        NpmFailed: It could not be installed, or the program failed.
    """
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n', encoding="utf-8")
    lock = json.loads((REPOSITORY / PACKAGE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    pinned = [f"{name}@{lock[f'node_modules/{name}']['version']}" for name in lock[""]["dependencies"]]
    _run(["npm", "install", *_OPTIONS, "--ignore-scripts", str(tarball.resolve()), *pinned], folder)
    program = folder / "program.js"
    program.write_text(_PROGRAM, encoding="utf-8")
    return json.loads(_run(["node", str(program)], folder, CLOUTAGENT_ADDRESS=address))


def _run(command: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        umask=0o022,
        check=False,
    )
    if done.returncode != 0:
        raise NpmFailed(f"{' '.join(command[:2])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
