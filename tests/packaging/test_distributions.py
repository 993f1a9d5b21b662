"""What is built: the same bytes each time, all that belongs into it, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from scripts.packaging.build import (
    CLIENT,
    REPOSITORY,
    SERVER,
    BuildFailed,
    build,
    build_one,
    commit_time,
    main,
)
from scripts.packaging.npm import NpmFailed, pack
from scripts.packaging.smoke import CLIENT_WHEEL, SERVER_WHEEL, built
from tests.packaging.conftest import EPOCH, copy_tracked

VERSION = (REPOSITORY / "VERSION").read_text().strip()
NAMES = {CLIENT: "cloutagent", SERVER: "cloutagent_server"}
WHEELS = {CLIENT: CLIENT_WHEEL, SERVER: SERVER_WHEEL}
PROJECTS = pytest.mark.parametrize("project", [CLIENT, SERVER], ids=["client", "server"])


def files_below(tree: Path, folder: str, renamed: str) -> Iterator[str]:
    """The files below a folder of the tree, as if the folder were called otherwise."""
    for path in (tree / folder).rglob("*"):
        if path.is_file():
            yield f"{renamed}/{path.relative_to(tree / folder)}"


def sdist(dist: Path, project: Path) -> Path:
    return dist / f"{NAMES[project]}-{VERSION}.tar.gz"


def test_the_same_files_give_the_same_bytes(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "elsewhere" / "another name"
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONHASHSEED", "17")
    before = os.umask(0o077)
    try:
        copy_tracked(REPOSITORY, other)
        for path in other.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
            os.utime(path, (1_000_000_000, 1_000_000_000))
        build(other, tmp_path / "dist", EPOCH)
    finally:
        os.umask(before)
    made, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (dist, tmp_path / "dist"))
    python = {f"{name}-{VERSION}{ending}" for name in NAMES.values() for ending in ("-py3-none-any.whl", ".tar.gz")}
    assert made.keys() == python | {f"cloutagent-{VERSION}.tgz"}
    assert made == again


def test_the_time_of_the_build_is_in_it(tree: Path, dist: Path, tmp_path: Path) -> None:
    build_one(tree / CLIENT, tmp_path, EPOCH + 3600, "wheel")
    assert built(tmp_path, CLIENT_WHEEL).read_bytes() != built(dist, CLIENT_WHEEL).read_bytes()


@PROJECTS
def test_the_wheel_from_the_sdist_is_that_from_the_tree(project: Path, dist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist(dist, project)) as archive:
        archive.extractall(tmp_path, filter="data")
    build_one(tmp_path / f"{NAMES[project]}-{VERSION}", tmp_path / "dist", EPOCH, "wheel")
    assert built(tmp_path / "dist", WHEELS[project]).read_bytes() == built(dist, WHEELS[project]).read_bytes()


@PROJECTS
def test_a_wheel_has_the_package_its_licence_and_nothing_else(project: Path, tree: Path, dist: Path) -> None:
    if project == CLIENT:
        expected = {*files_below(tree, "clients/python/cloutagent", "cloutagent")}
        assert {"cloutagent/py.typed", "cloutagent/v1/execution_pb2_grpc.pyi"} <= expected
    else:
        envoy = {*files_below(tree, "envoy", "cloutagent_server/_envoy")}
        assert {f"cloutagent_server/_envoy/{name}" for name in ("envoy.yaml", "cloutagent.binpb", "docs.html")} <= envoy
        expected = {*files_below(tree, "server/cloutagent_server", "cloutagent_server"), *envoy}
        assert "cloutagent_server/py.typed" in expected
    info = f"{NAMES[project]}-{VERSION}.dist-info"
    expected |= {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    if "scripts" in tomllib.loads((tree / project / "pyproject.toml").read_text())["project"]:
        expected.add(f"{info}/entry_points.txt")
    with ZipFile(built(dist, WHEELS[project])) as archive:
        assert set(archive.namelist()) == expected
        assert archive.read(f"{info}/licenses/LICENSE") == (REPOSITORY / "LICENSE").read_bytes()


@PROJECTS
def test_an_sdist_has_what_its_wheel_is_built_from(project: Path, tree: Path, dist: Path) -> None:
    folders = ["cloutagent"] if project == CLIENT else ["server", "envoy", "protos"]
    singles = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    singles |= set() if project == CLIENT else {"CHANGELOG.md", "VERSION"}
    expected = {name for folder in folders for name in files_below(tree / project, folder, folder)} | singles
    with tarfile.open(sdist(dist, project)) as archive:
        assert {name.partition("/")[2] for name in archive.getnames()} == expected


def test_the_npm_package_has_what_is_compiled_and_nothing_else(tree: Path, dist: Path) -> None:
    sources = [name.removesuffix(".ts") for name in files_below(tree, "clients/typescript/src", "dist")]
    expected = {f"{name}{ending}" for name in sources for ending in (".js", ".d.ts")}
    assert {"dist/index.js", "dist/index.d.ts", "dist/gen/cloutagent/v1/execution_pb.js"} <= expected
    with tarfile.open(dist / f"cloutagent-{VERSION}.tgz") as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    assert names == expected | {"package.json", "README.md", "LICENSE"}


@PROJECTS
def test_the_metadata_is_valid(project: Path, dist: Path) -> None:
    with ZipFile(built(dist, WHEELS[project])) as archive:
        text = archive.read(f"{NAMES[project]}-{VERSION}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert str(metadata.version) == VERSION
    assert metadata.license_expression == "Apache-2.0"
    assert str(metadata.requires_python) == ">=3.11"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description is not None
    with tarfile.open(sdist(dist, project)) as archive:
        inside = archive.extractfile(f"{NAMES[project]}-{VERSION}/PKG-INFO")
        assert inside is not None
        assert inside.read() == text


def test_the_server_needs_the_client_of_its_version(dist: Path) -> None:
    with ZipFile(built(dist, SERVER_WHEEL)) as archive:
        text = archive.read(f"cloutagent_server-{VERSION}.dist-info/METADATA").decode()
    needed = [Requirement(each) for each in Parser().parsestr(text).get_all("Requires-Dist", [])]
    assert [str(each) for each in needed if each.name == "cloutagent"] == [f"cloutagent=={VERSION}"]


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    with pytest.raises(NpmFailed, match="npm pack"):
        pack(tmp_path, tmp_path / "dist")


def test_what_cannot_be_built_is_told(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "nothing"\n')
    with pytest.raises(BuildFailed, match="version"):
        build_one(tmp_path, tmp_path / "dist", EPOCH, "wheel")


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit. A build of it makes a wheel that holds the files and the time that it was given."""
    repository = tmp_path / "repository"
    (repository / "folder").mkdir(parents=True)
    for name in ("kept", "gone", "folder/changed"):
        (repository / name).write_text("as committed")
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "one"]):
        subprocess.run(["git", "-C", str(repository), *identity, *command], check=True)

    def write(tree: Path, out: Path, epoch: int) -> None:
        out.mkdir()
        texts = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
        (out / "cloutagent-7-py3-none-any.whl").write_text(json.dumps([texts, epoch]))

    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setattr("scripts.packaging.build.REPOSITORY", repository)
    monkeypatch.setattr("scripts.packaging.build.build", write)
    return repository


def test_make_dist_builds_the_last_commit_with_its_time(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dist"
    made = out / "cloutagent-7-py3-none-any.whl"
    assert main(["--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [hashlib.sha256(made.read_bytes()).hexdigest(), made.name]
    assert not printed.err
    at_first = made.read_text()
    texts = dict.fromkeys(("kept", "gone", "folder/changed"), "as committed")
    assert json.loads(at_first) == [texts, commit_time(committed)]

    (committed / "folder/changed").write_text("as changed")
    (committed / "folder/stray").write_text("nobody tracks it")
    (committed / "gone").unlink()
    assert main(["--out", str(out)]) == 0
    assert made.read_text() == at_first
    told = capsys.readouterr().err
    assert all(name in told for name in ("folder/changed", "folder/stray", "gone"))

    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    assert main(["--out", str(out)]) == 0
    assert json.loads(made.read_text())[1] == EPOCH


@pytest.mark.usefixtures("committed")
def test_make_dist_removes_earlier_distributions_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    earlier = {f"cloutagent-0.0.1{end}" for end in (".tar.gz", ".tgz", "-py3-none-any.whl")}
    earlier |= {"cloutagent_server-0.0.1.tar.gz", "cloutagent_server-0.0.1-py3-none-any.whl"}
    for name in earlier:
        (out / name).touch()
    assert main(["--out", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["cloutagent-7-py3-none-any.whl"]

    for other in ("thesis.txt", "cloutagent-7-notes.txt", "cloutagent-8.tar.gz/"):
        folder = tmp_path / other.strip("/").replace(".", "-")
        folder.mkdir()
        (folder / "cloutagent-0.0.1.tgz").touch()
        (folder / other).mkdir() if other.endswith("/") else (folder / other).touch()
        assert main(["--out", str(folder)]) == 1
        assert {path.name for path in folder.iterdir()} == {"cloutagent-0.0.1.tgz", other.strip("/")}
        assert other.strip("/") in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "thesis-txt" / "thesis.txt")]) == 1
