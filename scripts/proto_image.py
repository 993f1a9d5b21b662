"""Compile the `.proto` files of a folder into descriptor sets, offline.

The imports come from installed packages: `google/protobuf` from grpcio-tools, `google/api` and `google/rpc` from
googleapis-common-protos, `buf/validate` from the compiled descriptor inside protovalidate.

Options that are known to Python are written in another order than those that are not. So that the bytes do not depend
on what else was imported, those of `google.api.http` are known here always.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from google.api import annotations_pb2  # noqa: F401 -- see the end of the docstring
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from protovalidate._gen.buf.validate import validate_pb

REPOSITORY = Path(__file__).resolve().parent.parent
PROTOS = REPOSITORY / "protos"

VALIDATE_FILE = "buf/validate/validate.proto"

ALWAYS_INCLUDED = ("google/api/httpbody.proto", "google/rpc/error_details.proto")
"""Files that no proto of ours has to import and that Envoy needs all the same: it answers an error whose detail has
an unknown type with an empty body."""


class ProtocFailed(Exception):
    """protoc refused its input. The message is what it printed."""


def own_files(protos: Path) -> list[str]:
    """The import names of the `.proto` files under `protos`, sorted.

    Raises:
        ProtocFailed: There is none.
    """
    names = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    if not names:
        raise ProtocFailed(f"no .proto file under {protos}")
    return names


def compile_protos(protos: Path, *, source_info: bool) -> FileDescriptorSet:
    """Compile every `.proto` under `protos`, its imports and `ALWAYS_INCLUDED`, dependencies first.

    Args:
        protos: The import root.
        source_info: Whether to keep comments and positions.

    Raises:
        ProtocFailed: A file does not compile.
    """
    with TemporaryDirectory() as folder:
        rules, out = Path(folder, "rules.binpb"), Path(folder, "out.binpb")
        validation = FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
        rules.write_bytes(FileDescriptorSet(file=[validation]).SerializeToString(deterministic=True))
        run_protoc(
            [
                f"--proto_path={protos}",
                f"--proto_path={sysconfig.get_path('purelib')}",
                f"--descriptor_set_in={rules}",
                "--include_imports",
                *(["--include_source_info"] if source_info else []),
                f"--descriptor_set_out={out}",
                *own_files(protos),
                *ALWAYS_INCLUDED,
            ]
        )
        return FileDescriptorSet.FromString(out.read_bytes())


def without_validation(image: FileDescriptorSet) -> FileDescriptorSet:
    """A copy that does not depend on `buf/validate/validate.proto`.

    The rules stay where they are as unknown option bytes, which is all that protovalidate reads, so stubs made from
    the copy carry them and need no package for `buf.validate`.
    """
    return without_imports(image, {VALIDATE_FILE})


def without_imports(image: FileDescriptorSet, names: Collection[str]) -> FileDescriptorSet:
    """A copy that does not depend on files that define nothing but options; these stay as unknown bytes."""
    copy = FileDescriptorSet()
    for file in image.file:
        if file.name in names:
            continue
        kept = copy.file.add()
        kept.CopyFrom(file)
        del kept.dependency[:]
        kept.dependency.extend(name for name in file.dependency if name not in names)
    return copy


def run_protoc(arguments: Sequence[str]) -> None:
    """Run the protoc of grpcio-tools, which finds `google/protobuf` by itself.

    Raises:
        ProtocFailed: It ended with an error.
    """
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProtocFailed(done.stderr.strip() or f"protoc ended with status {done.returncode}")
