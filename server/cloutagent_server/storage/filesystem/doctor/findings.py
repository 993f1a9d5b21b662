"""What the doctor looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project
from cloutagent_server.storage.filesystem.removal import Removal

FROM_BACKUP = "restore it from a backup"
BY_REPAIR = "run doctor --repair"


class Severity(StrEnum):
    """An error is data that cannot be used or trusted; a warning is untidy or unsafe, and loses nothing by itself."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        path: Where, relative to the root of the folder; `.` is the root itself.
        fault: What is wrong. Never a value of a secret.
        remedy: What to do about it.
        still: For what a write under way may look like for a moment: whether it is still there. Asked while nobody
            changes several files.
        repair: What `--repair` does about it, while nobody changes several files; None if that is left to people.
    """

    severity: Severity
    path: str
    fault: str
    remedy: str
    still: Callable[[], bool] | None = field(default=None, compare=False, repr=False)
    repair: Callable[[], None] | None = field(default=None, compare=False, repr=False)


class Folder:
    """A data folder, for the checks. `fault_of` tells why a sealed value does not open, None if it does.

    It is None itself where there is no key to open values with.
    """

    def __init__(self, root: Path, fault_of: Callable[[SealedSecret], str | None] | None = None) -> None:
        self.layout = Layout(root.absolute())
        self.index = Index(self.layout.index)
        self.locks = Locks(self.layout.locks)
        self.removal = Removal(self.layout, self.index)
        self.fault_of = fault_of

    def project_ids(self) -> Sequence[str]:
        """The projects that have a directory."""
        return sorted(filter(is_id, files.names_in(self.layout.root)))

    def execution_ids(self, project_id: str) -> Sequence[str]:
        """The executions of a project that have a directory."""
        return sorted(filter(is_id, files.names_in(self.layout.executions(project_id))))

    def has_index(self) -> bool:
        """Whether the index was built to its end and can be read."""
        try:
            return self.index.complete()
        except StoredDataDamaged:
            return False

    def record(self, project_id: str) -> ProjectRecord | None:
        """A project's record; None if there is none, or it is damaged: that is found by the check of projects."""
        try:
            return load_project(self.layout.metadata(project_id), project_id)
        except StoredDataDamaged:
            return None

    def relative(self, path: Path) -> str:
        """A path of the folder, as findings tell it."""
        return str(path.relative_to(self.layout.root))

    def damaged(self, fault: StoredDataDamaged, remedy: str = FROM_BACKUP) -> Finding:
        """The finding about a record that the store refuses to read."""
        return Finding(Severity.ERROR, self.relative(Path(fault.location)), fault.fault, remedy)


Check = Callable[[Folder], Iterable[Finding]]
