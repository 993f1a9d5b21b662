"""Where everything lies. Only checked identifiers and digests may be given to these functions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cloutagent_server.storage.filesystem.files import TEMPORARY_PREFIX

LOG: Final = "events.jsonl"
STATE: Final = "state.json"
METADATA: Final = "metadata.json"
SECRETS: Final = ".secrets"
SEALED: Final = "secrets.enc"
MANIFEST: Final = "manifest.json"
EXECUTIONS: Final = "executions"
KEYS: Final = ".keys"
KEY_USES: Final = "last-used.json"
AUDIT: Final = ".audit"
OWNER: Final = "owner.json"
LEDGER: Final = "ledger"

ROOT_NAMES: Final = frozenset(
    {
        ".index",
        ".staging",
        ".trash",
        ".locks",
        ".restore",
        ".servers",
        ".cancel",
        AUDIT,
        ".key-check.json",
        ".server.lock",
    }
)
PROJECT_NAMES: Final = frozenset({METADATA, SECRETS, EXECUTIONS, KEYS, LEDGER})
SECRETS_NAMES: Final = frozenset({SEALED, MANIFEST})
KEYS_NAMES: Final = frozenset({KEY_USES})
EXECUTION_NAMES: Final = frozenset({LOG, STATE, OWNER})
LEDGER_NAME: Final = re.compile(r"\d{4}-\d{2}(\.jsonl|\.totals\.json)")


class Layout:
    """The paths under one root.

    `{project id}/metadata.json`, `{project id}/.secrets/secrets.enc` with its `manifest.json`, and
    `{project id}/executions/{execution id}/events.jsonl` and `{project id}/ledger/{month}.jsonl` are the truth.
    `state.json` beside a log, `{month}.totals.json` beside a ledger's month and all of `.index` are derived from it
    and can be rebuilt. `.key-check.json` tells which key sealed the secrets, `.audit` holds the audit log,
    `.staging` what is being written, `.trash` what is being removed, `.restore` what a restore is about to put in a
    project's place, `.locks` the lock files. `.servers` holds a lease of each server at work, `owner.json` beside a
    log names the server that answers for the execution, and `.cancel` holds requests to cancel executions that
    other servers run. The sets of names above tell everything that may stand beside the projects, in a project, in
    what it has of secrets and keys, and in an execution.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / ".index"
        self.staging = root / ".staging"
        self.trash = root / ".trash"
        self.locks = root / ".locks"
        self.restores = root / ".restore"
        self.audit = root / AUDIT
        self.servers = root / ".servers"
        self.cancels = root / ".cancel"
        self.key_check = root / ".key-check.json"

    def project(self, project_id: str) -> Path:
        """A project's directory."""
        return self.root / project_id

    def unborn_project(self, project_id: str) -> Path:
        """Where a project is prepared before it exists."""
        return self.staging / (TEMPORARY_PREFIX + project_id)

    def metadata(self, project_id: str) -> Path:
        """A project's record."""
        return self.root / project_id / METADATA

    def key_uses(self, project_id: str) -> Path:
        """When a project's API keys were last used."""
        return self.root / project_id / KEYS / KEY_USES

    def secrets(self, project_id: str) -> Path:
        """A project's sealed secrets."""
        return self.root / project_id / SECRETS / SEALED

    def manifest(self, project_id: str) -> Path:
        """What binds a project's sealed secrets to their names and to the project."""
        return self.root / project_id / ".secrets" / "manifest.json"

    def ledger(self, project_id: str) -> Path:
        """The directory of a project's ledger."""
        return self.root / project_id / LEDGER

    def executions(self, project_id: str) -> Path:
        """The directory of a project's executions."""
        return self.root / project_id / EXECUTIONS

    def execution(self, project_id: str, execution_id: str) -> Path:
        """An execution's directory."""
        return self.executions(project_id) / execution_id

    def log(self, project_id: str, execution_id: str) -> Path:
        """An execution's event log."""
        return self.execution(project_id, execution_id) / LOG

    def unborn_execution(self, project_id: str, execution_id: str) -> Path:
        """Where an execution is prepared before it exists."""
        return self.executions(project_id) / (TEMPORARY_PREFIX + execution_id)
