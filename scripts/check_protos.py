"""Check the protos: lint, no breaking change against the baseline, generated files fresh. Works offline.

With `--write-baseline` it writes the baseline instead: run that when a release publishes the protos as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from scripts.envoy_routes import write_routes
from scripts.generate_openapi import DOCUMENTATION, write_documentation
from scripts.generate_protos import DESCRIPTORS, ENVOY_YAML, STUBS, generated_stubs, write_descriptors, write_stubs
from scripts.generate_typescript import TYPESCRIPT, generated_modules, write_typescript
from scripts.openapi.rules import UnknownRule
from scripts.proto_image import PROTOS, ProtocFailed, compile_protos, own_files

CONFIG = PROTOS / "buf.yaml"
BASELINE = PROTOS / "baseline.binpb"


def lint(protos: Path) -> str:
    """What `buf lint` says against the protos; empty when they are clean."""
    return _buf("lint", compile_protos(protos, source_info=True), _packages(protos), [])


def breaking(protos: Path, baseline: Path) -> str:
    """What in the protos would break a client of the baseline; empty when nothing does."""
    if not baseline.is_file():
        return f"{baseline} is missing: run `make proto-baseline`"
    against = [f"--against={baseline}", f"--against-config={CONFIG}"]
    return _buf("breaking", compile_protos(protos, source_info=True), _packages(protos), against)


def stale(
    protos: Path, stubs: Path, descriptors: Path, envoy_yaml: Path, documentation: Path, typescript: Path
) -> list[Path]:
    """The generated files that differ from what the protos give now, are missing, or have no proto any more."""
    with TemporaryDirectory() as folder:
        fresh_stubs, fresh_descriptors = Path(folder, "stubs"), Path(folder, "descriptors.binpb")
        fresh_envoy_yaml, fresh_documentation = Path(folder, "envoy.yaml"), Path(folder, "documentation")
        fresh_typescript = Path(folder, "typescript")
        write_stubs(protos, fresh_stubs)
        write_descriptors(protos, fresh_descriptors)
        write_routes(compile_protos(protos, source_info=False), envoy_yaml, fresh_envoy_yaml)
        write_documentation(protos, fresh_documentation)
        write_typescript(protos, fresh_typescript)
        expected = {stubs / made.relative_to(fresh_stubs): made for made in _files(fresh_stubs)}
        expected[descriptors] = fresh_descriptors
        expected[envoy_yaml] = fresh_envoy_yaml
        expected |= {documentation / made.name: made for made in _files(fresh_documentation)}
        expected |= {typescript / made.relative_to(fresh_typescript): made for made in _files(fresh_typescript)}
        wrong = {target for target, made in expected.items() if not _same(target, made)}
        leftover = set().union(*(generated_stubs(stubs / package) for package in _packages(protos)))
        leftover |= generated_modules(typescript)
        return sorted(wrong | (leftover - expected.keys()))


def write_baseline(protos: Path, baseline: Path) -> None:
    """Make the protos as they are the baseline that later ones are compared with."""
    baseline.write_bytes(compile_protos(protos, source_info=False).SerializeToString(deterministic=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script with these arguments, by default those of the process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="check_protos", description=__doc__)
    parser.add_argument("--protos", type=Path, default=PROTOS, help="import root of the .proto files")
    parser.add_argument("--stubs", type=Path, default=STUBS, help="import root of the generated Python stubs")
    parser.add_argument("--descriptors", type=Path, default=DESCRIPTORS, help="Envoy's generated descriptor set")
    parser.add_argument("--envoy-yaml", type=Path, default=ENVOY_YAML, help="Envoy's configuration")
    parser.add_argument("--documentation", type=Path, default=DOCUMENTATION, help="folder of the OpenAPI document")
    parser.add_argument("--typescript", type=Path, default=TYPESCRIPT, help="folder of the generated TypeScript")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="descriptor set of the published protos")
    parser.add_argument("--write-baseline", action="store_true", help="write the baseline instead of checking")
    options = parser.parse_args(arguments)
    try:
        if options.write_baseline:
            write_baseline(options.protos, options.baseline)
            return 0
        generated = (
            options.stubs,
            options.descriptors,
            options.envoy_yaml,
            options.documentation,
            options.typescript,
        )
        faults = list(_faults(options.protos, generated, options.baseline))
    except (ProtocFailed, UnknownRule) as failure:
        faults = [str(failure)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _faults(protos: Path, generated: tuple[Path, Path, Path, Path, Path], baseline: Path) -> Iterator[str]:
    if found := lint(protos):
        yield f"buf lint:\n{found}"
    if found := breaking(protos, baseline):
        yield f"buf breaking:\n{found}"
    if outdated := stale(protos, *generated):
        names = "\n".join(f"  {os.path.relpath(path)}" for path in outdated)
        yield f"generated files are not what the protos give; run `make generate`:\n{names}"


def _buf(command: str, image: FileDescriptorSet, packages: Sequence[str], options: Sequence[str]) -> str:
    buf = Path(sysconfig.get_path("scripts"), "buf")
    with TemporaryDirectory() as folder:
        image_file = Path(folder, "image.binpb")
        image_file.write_bytes(image.SerializeToString(deterministic=True))
        paths = [f"--path={package}" for package in packages]
        arguments = [str(buf), command, str(image_file), f"--config={CONFIG}", *options, *paths]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    found = (done.stdout + done.stderr).strip()
    return found or (f"buf {command} ended with status {done.returncode}" if done.returncode else "")


def _packages(protos: Path) -> list[str]:
    return sorted({name.partition("/")[0] for name in own_files(protos)})


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
