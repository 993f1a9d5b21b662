"""What a real Envoy tells of itself for Prometheus: what is documented, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloutagent_server.certificate import CertificateFiles
from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.monitoring.envoy import answer_with
from tests.support.certificates import Authority
from tests.support.scraping import Scrape
from tests.unit.monitoring.test_documented_metrics import documented

pytestmark = pytest.mark.e2e


async def test_what_envoy_exposes_is_what_is_documented(tmp_path: Path) -> None:
    files = CertificateFiles(tmp_path / "certificate.pem", tmp_path / "key.pem")
    for path, content in zip((files.certificate, files.private_key), Authority().issue(), strict=True):
        path.write_bytes(content)
    # Of the path of its socket nobody has to take care.
    envoy = EnvoyProcess(
        "127.0.0.1", 0, "127.0.0.1", 1, tmp_path / ("long-" * 30), certificate=files, writes_per_minute=100
    )
    await envoy.start()
    try:
        text = await envoy.statistics()
        families = Scrape(text).families
        exposed = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
        assert exposed == {name: kind for name, (kind, _) in documented("envoy_").items()}
        for name, (_, labels) in documented("envoy_").items():
            found = [set(sample.labels) for family in families if family.name == name for sample in family.samples]
            assert found and all(each == labels for each in found), name
        assert len(text) < 8000
    finally:
        await envoy.stop()
    assert (await answer_with(envoy.statistics)).status == 503
