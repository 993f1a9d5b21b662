"""Print Envoy's configuration for its own container: reachable from outside, the server in the container `server`."""

import json
import os

from envoy_config import EnvoyAddresses, rendered_config

ADDRESSES = EnvoyAddresses(
    host="0.0.0.0",  # noqa: S104 -- the container's port is what is published
    port=3001,
    upstream_host="server",
    upstream_port=50051,
    admin_path="/tmp/envoy-admin.sock",  # noqa: S108 -- the container's own
    cors_origins=tuple(origin.strip() for origin in os.environ.get("CORS_ORIGINS", "").split(",") if origin.strip()),
    writes_per_minute=100,
)

print(json.dumps(rendered_config(ADDRESSES)))
