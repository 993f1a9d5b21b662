"""A reader who types a page's snippets, one after the other, into a shell and a Python of their own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from unittest import mock

from tests.documentation import curl
from tests.documentation.snippets import Snippet

SNIPPET_SECONDS: Final = 60
ANYTHING: Final = "…"


class SnippetFailed(AssertionError):
    """A snippet does not do what its page says."""


class Reader:
    """Runs the snippets of one page. What one sets (variables, names, files) is there for the next."""

    def __init__(self, folder: Path, environment: Mapping[str, str], changes: Mapping[str, str]) -> None:
        """Works in `folder`; `changes` are what is replaced in the snippets, such as addresses."""
        self._folder = folder
        self._environment = dict(environment)
        self._changes = changes
        self._names: dict[str, Any] = {"__name__": "snippet"}
        self._printed = ""

    def read(self, snippet: Snippet) -> None:
        """Run a snippet, or hold the output of the one before against a `text`.

        Raises:
            SnippetFailed: It failed, or the output is another one.
        """
        languages: dict[str, Callable[[Snippet, str], str]] = {"sh": self._sh, "python": self._python, "js": self._js}
        text = snippet.text
        for old, new in self._changes.items():
            text = text.replace(old, new)
        if snippet.language == "text":
            if not prints(self._printed, text):
                raise SnippetFailed(f"{snippet.where} promises\n{text}\nand this was printed:\n{self._printed}")
            return
        self._printed = languages[snippet.language](snippet, text)

    def _sh(self, snippet: Snippet, text: str) -> str:
        # What is set is exported, so that the next snippet finds it.
        state = self._folder / "variables"
        printed = self._run(snippet, ["bash", "-c", f"set -aeu\n{text}\nenv -0 > {shlex.quote(str(state))}\n"])
        entries = state.read_text(encoding="utf-8").split("\0")
        self._environment = dict(entry.split("=", 1) for entry in entries if entry)
        return printed

    def _js(self, snippet: Snippet, text: str) -> str:
        return self._run(snippet, ["node", "--input-type=module", "--eval", text])

    def _run(self, snippet: Snippet, command: list[str]) -> str:
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SNIPPET_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise SnippetFailed(f"{snippet.where} does not end; it printed\n{error.output}") from error
        if done.returncode != 0:
            raise SnippetFailed(f"{snippet.where} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _python(self, snippet: Snippet, text: str) -> str:
        # Lines are those of the page in a traceback.
        code = compile("\n" * (snippet.line - 1) + text, snippet.page, "exec")
        printed = io.StringIO()
        with (
            mock.patch.dict(os.environ, self._environment, clear=True),
            contextlib.chdir(self._folder),
            contextlib.redirect_stdout(printed),
        ):
            try:
                exec(code, self._names)
            except Exception as error:
                raise SnippetFailed(f"{snippet.where}: {traceback.format_exc()}") from error
        return printed.getvalue()


def prints(printed: str, promised: str) -> bool:
    """Whether the output has these lines. In a line `…` stands for any text, and a line of `…` alone for any lines."""
    pattern = ""
    for line in promised.strip("\n").split("\n"):
        if line == ANYTHING:
            pattern += "(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split(ANYTHING)) + "\n"
    # The last line need not be the whole one, nor the first.
    return re.search(pattern.removesuffix("\n"), printed) is not None


def programs(folder: Path) -> Path:
    """A folder with the programs that a reader has after `make setup`, to put in front of the PATH."""
    folder.mkdir()
    modules = {"cloutagent-server": "cloutagent_server", "cloutagent": "cloutagent"}
    for name, module in modules.items():
        _program(folder / name, f'exec {shlex.quote(sys.executable)} -m {module} "$@"')
    for name in ("python", "python3"):
        _program(folder / name, f'exec {shlex.quote(sys.executable)} "$@"')
    (folder / "buf").symlink_to(Path(sys.executable).with_name("buf"))
    if shutil.which("curl") is None:
        _program(folder / "curl", f'exec {shlex.quote(sys.executable)} {shlex.quote(curl.__file__)} "$@"')
    return folder


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
