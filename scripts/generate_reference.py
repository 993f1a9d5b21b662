"""Generate the API reference, `docs/reference`: a page for each proto file, one for each client, and an index.

The same protos, docstrings and comments give the same text, so a test can prove that what is checked in is fresh.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from scripts.openapi.descriptors import Api
from scripts.openapi.document import document
from scripts.openapi.rules import UnknownRule
from scripts.proto_image import PROTOS, REPOSITORY, ProtocFailed
from scripts.reference import protos as proto_pages
from scripts.reference import python as python_page
from scripts.reference import typescript as typescript_page
from scripts.reference.exports import CompilerFailed
from scripts.reference.markdown import GENERATED, Links, item, paragraph

REFERENCE: Final = REPOSITORY / "docs" / "reference"
INDEX: Final = "README.md"


def pages(protos: Path) -> Mapping[str, str]:
    """The pages by their file names.

    Raises:
        ProtocFailed: A file does not compile.
        UnknownRule: A validation rule has no words.
        CompilerFailed: What the TypeScript client exports could not be read.
    """
    api, openapi = Api(protos), document(protos)
    proto_homes = proto_pages.homes(api)
    homes = {**python_page.homes(), **proto_homes}
    found = {}
    for file in api.files:
        links = Links(proto_pages.page_of(file), homes)
        found[links.page] = proto_pages.ProtoPage(api, openapi, file, links).text()
    found[python_page.PAGE] = python_page.page(Links(python_page.PAGE, homes))
    typescript_links = Links(typescript_page.PAGE, typescript_page.homes(proto_homes))
    found[typescript_page.PAGE] = typescript_page.TypeScriptPage(api, typescript_links).text()
    found[INDEX] = _index(api, Links(INDEX, homes))
    return found


def write_reference(protos: Path, folder: Path) -> None:
    """Write the pages into `folder`, and remove those that are none any more. Raises as `pages` does."""
    made = pages(protos)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, encoding="utf-8")


def main() -> int:
    """Write the reference; returns the exit status."""
    try:
        write_reference(PROTOS, REFERENCE)
    except (ProtocFailed, UnknownRule, CompilerFailed) as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _index(api: Api, links: Links) -> str:
    lines = [
        "# API reference\n",
        f"{GENERATED}\n",
        paragraph(
            "The API is the package `cloutagent.v1`, over gRPC and, where a call has a route, over REST: fields have "
            "the same names there in lowerCamelCase (`max_tokens` is `maxTokens`). [REST](../rest.md) has the rules. "
            "The server shows its REST API at `/api/docs`, and as OpenAPI 3.1 at `/api/openapi.json`."
        ),
        "## Services\n",
    ]
    for service in api.services:
        lines.append(item(f"{links.to(service.name)}: {_first_sentence(api, service, links)}"))
        lines += [
            item(f"{links.to(method.name)}: {_first_sentence(api, method, links)}", 1) for method in service.methods
        ]
    lines += ["", "## Messages\n"]
    for file in api.files:
        types = (*file.message_types_by_name.values(), *file.enum_types_by_name.values())
        # Those of one call are to be found from there.
        names = [links.to(each.name) for each in types if not each.name.endswith(("Request", "Response"))]
        told = f": {', '.join(names)}" if names else ""
        lines.append(item(f"[{Path(file.name).name}]({proto_pages.page_of(file)}){told}"))
    lines += ["", "## Clients\n", item(f"[Python]({python_page.PAGE})"), item(f"[TypeScript]({typescript_page.PAGE})")]
    return "\n".join(lines) + "\n"


def _first_sentence(api: Api, descriptor: Any, links: Links) -> str:
    text = " ".join(api.comment(descriptor).split())
    return links.within(text.partition(". ")[0].rstrip(".") + ".")


if __name__ == "__main__":
    sys.exit(main())
