"""The certificate's files: what is wrong with them is said without their content, and changes are noticed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cloutagent_server import certificate
from cloutagent_server.certificate import CertificateFiles, CertificateWatch
from tests.support.certificates import Authority


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> CertificateFiles:
    return authority.issue_to(tmp_path)


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    folder = tmp_path / "changes"
    folder.mkdir()
    return folder


def test_a_pair_has_no_fault(files: CertificateFiles) -> None:
    assert files.fault() is None


def test_faults_are_named_and_tell_nothing_of_the_key(
    authority: Authority, files: CertificateFiles, tmp_path: Path
) -> None:
    _, other_key = authority.issue()
    certificate, locked_key = authority.issue(password=b"secret")
    for content, told in (
        (other_key, "key values mismatch"),
        (b"no key", "no certificate and its private key"),
        (b"", "no certificate and its private key"),
    ):
        files.private_key.write_bytes(content)
        fault = files.fault()
        assert fault is not None
        assert told in fault
        assert content.decode() not in fault or not content
    files.certificate.write_bytes(certificate)
    files.private_key.write_bytes(locked_key)
    assert files.fault() is not None
    files.private_key.unlink()
    assert files.fault() == f"{files.private_key} cannot be read: No such file or directory"
    assert CertificateFiles(tmp_path, files.private_key).fault() == f"{tmp_path} cannot be read: Is a directory"


def test_a_change_is_told_once_and_half_of_one_never(
    authority: Authority, files: CertificateFiles, changes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cloutagent_server")
    watch = CertificateWatch(files, changes)
    watch.check()
    assert list(changes.iterdir()) == []

    certificate, key = authority.issue()
    files.certificate.write_bytes(certificate)
    watch.check()
    watch.check()
    assert caplog.messages == ["certificate_refused"]
    assert list(changes.iterdir()) == []

    files.private_key.write_bytes(key)
    watch.check()
    watch.check()
    assert caplog.messages == ["certificate_refused", "certificate_changed"]
    (marker,) = changes.iterdir()
    marker.unlink()

    files.certificate.unlink()
    watch.check()
    assert list(changes.iterdir()) == []


def test_a_link_that_leads_elsewhere_is_a_change(authority: Authority, changes: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        authority.issue_to(folder)
    live = tmp_path / "live"
    live.symlink_to(folders[0])
    watch = CertificateWatch(CertificateFiles(live / "certificate.pem", live / "key.pem"), changes)
    live.unlink()
    live.symlink_to(folders[1])
    watch.check()
    assert [path.name for path in changes.iterdir()] == ["changed"]


def test_authorities_are_found_wherever_this_python_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = tmp_path / "authorities.pem"
    named.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    assert certificate.authorities() == str(named)
    named.unlink()
    usual = tmp_path / "usual.pem"
    monkeypatch.setattr(certificate, "_AUTHORITIES", (str(tmp_path / "missing"), str(usual)))
    with pytest.raises(OSError, match="SSL_CERT_FILE"):
        certificate.authorities()
    usual.write_text("")
    assert certificate.authorities() == str(usual)
