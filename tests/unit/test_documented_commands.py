"""Commands of the documentation can be typed as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from cloutagent_server.settings import Settings

REPOSITORY = Path(__file__).parents[2]


def test_the_servers_of_a_rolling_restart_take_ports_of_their_own() -> None:
    page = (REPOSITORY / "docs/operations.md").read_text()
    part = page.split("### Rolling restart", 1)[1].split("\n## ", 1)[0]
    commands = re.findall(r"^((?:\w+=\S+ )*)cloutagent-server serve\b", part, re.MULTILINE)
    assert len(commands) == 2
    ports = []
    for variables in commands:
        given = {name.lower(): value for name, value in re.findall(r"(\w+)=(\S+)", variables)}
        settings = Settings(_env_file=None, anthropic_base_url="http://127.0.0.1:9", **given)
        ports += [settings.grpc_port, settings.metrics_port]
    assert len(set(ports)) == 4
    (upstreams,) = re.findall(r"UPSTREAMS=(\S+)", part)
    assert {f"127.0.0.1:{port}" for port in ports[::2]} == set(upstreams.split(","))
