"""The certificate of the API: checked before it is used, and read anew when its files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

POLL_SECONDS: Final = 1.0

log: Final = logging.getLogger(__name__)

# Of Debian, Red Hat, SUSE and macOS, for a Python that looks elsewhere.
_AUTHORITIES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_Seen = tuple[tuple[int, int, int, int] | None, ...]


def authorities() -> str:
    """The file with the certificates of the authorities that this machine trusts.

    Raises:
        OSError: There is none where it usually is.
    """
    for path in filter(None, (ssl.get_default_verify_paths().cafile, *_AUTHORITIES)):
        if Path(path).is_file():
            return path
    raise OSError(
        "the certificates of authorities, by which https is checked, are not found: SSL_CERT_FILE may name them"
    )


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its chain, and its private key, both PEM."""

    certificate: Path
    private_key: Path

    def fault(self) -> str | None:
        """Why they cannot be used, without anything of what they hold; None if they can."""
        for path in (self.certificate, self.private_key):
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                return f"{path} cannot be read: {error.strerror}"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.private_key, _no_password)
        except (ssl.SSLError, ValueError, OSError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else None
            told = "" if reason is None else f" ({reason.lower().replace('_', ' ')})"
            return f"{self.certificate} and {self.private_key} are no certificate and its private key in PEM{told}"
        return None


class CertificateWatch:
    """Looks at the files every second, and moves a file into a directory when they have changed and fit each other.

    It notices every way to replace them: written over, moved into place, by symbolic links. Half of a pair changes
    nothing: what was served goes on being served until both files fit.
    """

    def __init__(self, files: CertificateFiles, directory: Path) -> None:
        """`directory` is there, and nobody else's."""
        self._files = files
        self._directory = directory
        self._seen = self._look()

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                self.check()
            except OSError:
                log.exception("certificate_not_told")

    def check(self) -> None:
        """Look at the files now. Raises OSError if the directory cannot be written."""
        seen = self._look()
        if seen == self._seen:
            return
        fault = self._files.fault()
        if fault is None:
            new = self._directory / "new"
            new.touch()
            new.replace(self._directory / "changed")
            log.info("certificate_changed")
        else:
            log.warning("certificate_refused", extra={"fault": fault})
        # It was looked at before it was checked: what is written meanwhile differs again the next time.
        self._seen = seen

    def _look(self) -> _Seen:
        return tuple(_identity(path) for path in (self._files.certificate, self._files.private_key))


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _no_password() -> str:
    """A key that asks for a password cannot be used: nobody is there to answer."""
    return ""
