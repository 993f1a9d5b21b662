"""Generate what is checked in of the API's documentation: the OpenAPI document and the page that shows it.

The same protos give the same bytes, so `check_protos` can prove that what is checked in is fresh.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.openapi.document import document
from scripts.openapi.page import page
from scripts.openapi.rules import UnknownRule
from scripts.proto_image import PROTOS, REPOSITORY, ProtocFailed

DOCUMENTATION = REPOSITORY / "envoy"


def write_documentation(protos: Path, folder: Path) -> None:
    """Write `openapi.json` and `docs.html`, which shows it, into `folder`.

    Raises:
        ProtocFailed: A file does not compile.
        UnknownRule: A validation rule has no translation to JSON Schema.
    """
    made = document(protos)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made, ensure_ascii=False, indent=2) + "\n"
    (folder / "openapi.json").write_text(text, encoding="utf-8")
    (folder / "docs.html").write_text(page(made), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="generate_openapi", description=__doc__)
    parser.add_argument("--protos", type=Path, default=PROTOS, help="import root of the .proto files")
    parser.add_argument("--documentation", type=Path, default=DOCUMENTATION, help="folder for the generated files")
    options = parser.parse_args(arguments)
    try:
        write_documentation(options.protos, options.documentation)
    except (ProtocFailed, UnknownRule) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
