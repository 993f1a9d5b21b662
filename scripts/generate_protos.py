"""Generate what is checked in from the protos: the Python stubs, Envoy's descriptor set, and its routes.

The same input gives the same bytes, so `check_protos` can prove that what is checked in is fresh.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from scripts.envoy_routes import write_routes
from scripts.proto_image import (
    PROTOS,
    REPOSITORY,
    ProtocFailed,
    compile_protos,
    own_files,
    run_protoc,
    without_validation,
)

STUBS = REPOSITORY / "clients" / "python"
DESCRIPTORS = REPOSITORY / "envoy" / "cloutagent.binpb"
ENVOY_YAML = REPOSITORY / "envoy" / "envoy.yaml"

HEADER = "# Generated from protos/ by `make generate`. Do not edit.\n"
PACKAGE_DOCSTRING = '"""Generated messages and service stubs of the API package `{package}`."""\n'


def write_descriptors(protos: Path, target: Path) -> None:
    """Write the descriptor set that Envoy transcodes with: all files and imports, without comments.

    Raises:
        ProtocFailed: A file does not compile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(compile_protos(protos, source_info=False).SerializeToString(deterministic=True))


def write_stubs(protos: Path, root: Path) -> None:
    """Write `*_pb2` and `*_pb2_grpc` modules with their types below the import root `root`.

    Comments of the protos become docstrings of the types. Generated files of protos that are gone are removed.

    Raises:
        ProtocFailed: A file does not compile.
    """
    image = without_validation(compile_protos(protos, source_info=True))
    names = own_files(protos)
    with TemporaryDirectory() as folder:
        fresh = Path(folder, "stubs")
        fresh.mkdir()
        _run_plugins(image, names, fresh)
        for package in {Path(name).parent for name in names}:
            docstring = PACKAGE_DOCSTRING.format(package=".".join(package.parts))
            (fresh / package / "__init__.py").write_text(docstring, encoding="utf-8")
            target = root / package
            target.mkdir(parents=True, exist_ok=True)
            made = {path.name: HEADER + path.read_text(encoding="utf-8") for path in (fresh / package).iterdir()}
            for name, text in made.items():
                (target / name).write_text(text, encoding="utf-8")
            for old in generated_stubs(target):
                if old.name not in made:
                    old.unlink()


def generated_stubs(folder: Path) -> set[Path]:
    """The files in and below `folder` that carry the names of generated stubs."""
    return {path for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in folder.rglob(pattern)}


def main(arguments: list[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="generate_protos", description=__doc__)
    parser.add_argument("--protos", type=Path, default=PROTOS, help="import root of the .proto files")
    parser.add_argument("--stubs", type=Path, default=STUBS, help="import root that the Python stubs go to")
    parser.add_argument("--descriptors", type=Path, default=DESCRIPTORS, help="file for Envoy's descriptor set")
    parser.add_argument("--envoy-yaml", type=Path, default=ENVOY_YAML, help="Envoy's configuration")
    options = parser.parse_args(arguments)
    try:
        write_stubs(options.protos, options.stubs)
        write_descriptors(options.protos, options.descriptors)
        write_routes(compile_protos(options.protos, source_info=False), options.envoy_yaml, options.envoy_yaml)
    except ProtocFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _run_plugins(image: FileDescriptorSet, names: list[str], out: Path) -> None:
    scripts = Path(sysconfig.get_path("scripts"))
    with_services = [file.name for file in image.file if file.name in names and file.service]
    with TemporaryDirectory() as folder:
        image_file = Path(folder, "image.binpb")
        image_file.write_bytes(image.SerializeToString(deterministic=True))
        source = f"--descriptor_set_in={image_file}"
        plugin = f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}"
        run_protoc([source, plugin, f"--python_out={out}", f"--mypy_out=quiet:{out}", *names])
        if with_services:
            plugin = f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}"
            run_protoc(
                [source, plugin, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *with_services],
            )


if __name__ == "__main__":
    sys.exit(main())
