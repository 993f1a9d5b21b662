"""`python -m scripts.generate_typescript` generates messages and services of the TypeScript client from the protos.

It needs Node, and what clients/typescript/package-lock.json pins. The same protos give the same bytes, so that
`check_protos` can prove that what is checked in is fresh.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from scripts.proto_image import (
    PROTOS,
    REPOSITORY,
    VALIDATE_FILE,
    ProtocFailed,
    compile_protos,
    own_files,
    run_protoc,
    without_imports,
)

PACKAGE: Final = REPOSITORY / "clients" / "typescript"
TYPESCRIPT: Final = PACKAGE / "src" / "gen"
PLUGIN: Final = PACKAGE / "node_modules" / ".bin" / "protoc-gen-es"
# `json_types` gives every message a type of its JSON form, which is what the REST API takes and answers.
OPTIONS: Final = "target=ts,import_extension=js,json_types=true"

# Options say things to the server and to Envoy. They stay as bytes; types for them would be dead weight in every page.
OPTION_FILES: Final = frozenset(
    {VALIDATE_FILE, "google/api/annotations.proto", "google/api/field_behavior.proto", "google/api/http.proto"}
)
IMPORTED: Final = ("google/api/httpbody.proto", "google/rpc/error_details.proto")
"""Files of others whose messages callers meet: in a text stream, and in the details of an error."""


def write_typescript(protos: Path, target: Path) -> None:
    """Write a module for each proto below `target`; what was there of protos that are gone is removed.

    Raises:
        ProtocFailed: A file does not compile, or the plugin is not installed.
    """
    if not PLUGIN.is_file():
        raise ProtocFailed(f"{PLUGIN.relative_to(REPOSITORY)} is missing: run `make setup`")
    image = without_imports(compile_protos(protos, source_info=True), OPTION_FILES)
    for file in image.file:
        if file.name in IMPORTED:
            # Their names are needed here, not what their authors say of them.
            file.ClearField("source_code_info")
    with TemporaryDirectory() as folder:
        image_file, fresh = Path(folder, "image.binpb"), Path(folder, "gen")
        image_file.write_bytes(image.SerializeToString(deterministic=True))
        fresh.mkdir()
        run_protoc(
            [
                f"--descriptor_set_in={image_file}",
                f"--plugin=protoc-gen-es={PLUGIN}",
                f"--es_out={fresh}",
                f"--es_opt={OPTIONS}",
                *own_files(protos),
                *IMPORTED,
            ]
        )
        made = {path.relative_to(fresh): path.read_bytes() for path in fresh.rglob("*_pb.ts")}
    for name, content in made.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    for old in generated_modules(target):
        if old.relative_to(target) not in made:
            old.unlink()


def generated_modules(folder: Path) -> set[Path]:
    """The files below `folder` that carry the names of generated modules."""
    return set(folder.rglob("*_pb.ts"))


def main() -> int:
    """Run the script; returns the exit status."""
    try:
        write_typescript(PROTOS, TYPESCRIPT)
    except ProtocFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
