"""The snippets of the documentation run as they are printed, in a shell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.command_line.conftest import ADMIN_KEY
from tests.support.command_line.server import ThreadedServer
from tests.support.command_line.shell import run_script

REPOSITORY = Path(__file__).parents[2]
PRINTED_ADDRESS = "http://127.0.0.1:3001"


def snippets(document: str, section: str = "") -> str:
    """The shell commands in a document, or in one of its sections, in their order."""
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize(
    ("document", "section", "printed"),
    [
        (
            "docs/command-line.md",
            "",
            ["echo: Greet Ada.\n", "profile default: ", "set CRM_TOKEN, version 3", '"status": "'],
        ),
        ("README.md", "From the command line", ["echo: Greet Ada."]),
    ],
)
def test_the_snippets_of_a_document_run(
    document: str,
    section: str,
    printed: list[str],
    server: ThreadedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if section:
        # There the server is one for development, which asks for no admin key.
        monkeypatch.setenv("CLOUTAGENT_ADDRESS", server.url)
        script = f"export CLOUTAGENT_API_KEY={ADMIN_KEY}\n{snippets(document, section)}"
        script = script.replace("--save-as support\n", "--save-as support\nunset CLOUTAGENT_API_KEY\n")
    else:
        script = snippets(document)
    done = run_script(script.replace(PRINTED_ADDRESS, server.url), tmp_path, ADMIN_KEY)
    assert done.returncode == 0, done
    for expected in printed:
        assert expected in done.stdout
    assert ADMIN_KEY not in done.stdout + done.stderr
