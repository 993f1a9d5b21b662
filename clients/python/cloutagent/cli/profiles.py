"""Profiles: where a server is and the key for it, by name, each in a file of its own that only its owner can read.

They lie in `$XDG_CONFIG_HOME/cloutagent/profiles`, by default `~/.config/cloutagent/profiles`. A file is replaced as a
whole, so that commands at the same time cannot damage one.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from cloutagent.cli.endings import CommandError
from cloutagent.cli.own_files import must_be_own, read_own

DEFAULT: Final = "default"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Profile:
    """What is stored under a name.

    Attributes:
        address: Where the server is.
        api_key: The key; None after `logout`.
        project_id: The project of the commands that name none; None for the one that the key belongs to.
        ca_file: Certificates of the authorities to believe.
        allow_plaintext_key: Whether the key may go to another machine without TLS.
    """

    address: str
    api_key: str | None = field(default=None, repr=False)
    project_id: str | None = None
    ca_file: str | None = None
    allow_plaintext_key: bool = False


def folder() -> Path:
    """Where the command keeps its files."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return base / "cloutagent"


class Profiles:
    """The profiles of this user. Raises CommandError for what cannot be read or written."""

    def __init__(self, where: Path | None = None) -> None:
        self._folder = where or folder()

    def names(self) -> Sequence[str]:
        """All names, in alphabetical order."""
        found = (path.name.removesuffix(_SUFFIX) for path in (self._folder / "profiles").glob(f"*{_SUFFIX}"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def current(self) -> str | None:
        """The name that holds when none is given: the chosen one, else `default`; None if there is no such profile."""
        name = DEFAULT
        with suppress(OSError, UnicodeDecodeError):
            name = (self._folder / "current").read_text(encoding="utf-8").strip()
        return name if name in self.names() else None

    def get(self, name: str) -> Profile | None:
        """The profile of this name, or None."""
        path = self._path(name)
        try:
            for place in (self._folder, path.parent):
                must_be_own(place, place.stat(), others=stat.S_IWGRP | stat.S_IWOTH)
            return _profile(json.loads(read_own(path)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, AttributeError):
            raise CommandError(f"{path} is damaged: remove it and log in again") from None

    def put(self, name: str, profile: Profile) -> None:
        """Store a profile, in place of the one that has its name."""
        self._write(self._path(name), json.dumps(asdict(profile), indent=2) + "\n")

    def use(self, name: str) -> None:
        """Have this one hold when none is given."""
        self._write(self._folder / "current", f"{name}\n")

    def settle(self) -> str | None:
        """Have the first one hold if none holds when none is given. Its name if that is new, else None."""
        names = self.names()
        if not names or self.current() is not None:
            return None
        self.use(names[0])
        return names[0]

    def remove(self, name: str) -> None:
        """Remove a profile."""
        try:
            self._path(name).unlink()
        except OSError as error:
            raise CommandError(f"cannot remove {self._path(name)}: {error.strerror}") from None

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise CommandError("a profile's name has letters and digits, and behind the first also `.`, `_` and `-`")
        return self._folder / "profiles" / f"{name}{_SUFFIX}"

    def _write(self, path: Path, content: str) -> None:
        try:
            for made in (self._folder, path.parent):
                made.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made for the owner alone, from the first byte on.
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _profile(stored: dict[str, Any]) -> Profile:
    """A profile from its JSON. Raises TypeError, AttributeError if it is none."""
    known = {each.name for each in fields(Profile)}
    profile = Profile(**{key: value for key, value in stored.items() if key in known})
    kinds = {"address": str, "allow_plaintext_key": bool}
    if not all(isinstance(value, kinds.get(name, str | None)) for name, value in asdict(profile).items()):
        raise TypeError
    return profile


def complete_profile(incomplete: str) -> list[str]:
    """Names for the shell's completion."""
    return [name for name in Profiles().names() if name.startswith(incomplete)]
