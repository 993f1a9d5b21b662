"""The snippets that no test runs, each with the reason. What is not in here is run as it is printed."""

from __future__ import annotations

from typing import Final

ELSEWHERE: Final = {
    "docs/command-line.md": "tests/command_line/test_documentation.py",
    "docs/typescript.md": "clients/typescript/test/live/documentation.test.ts",
    "ts": "clients/typescript/test/live/documentation.test.ts",
}
"""Pages, and languages, whose snippets another test runs, which names the pages that it takes them from."""

CONTAINERS: Final = "needs a container engine; test_commands.py holds its commands against docker-compose and the files"
RELEASES: Final = "needs a container engine, and two releases"
ROOT: Final = "is for root, and a certificate that somebody renews"
SETS_UP: Final = "sets everything up again, or runs the tests that this is one of"
MINUTES: Final = "takes minutes; tests/unit/test_stack_benchmarks.py runs the same, small"
RUNS: Final = "runs until Ctrl-C; what runs here is the same"
INSTALLS: Final = "installs into the reader's environment"
REPLACES: Final = "puts back what other pages have changed meanwhile; tests/e2e/test_maintenance.py runs it"
PUBLISHES: Final = "publishes a release"
IS_MAKE: Final = "is the command after it, behind what sets everything up"

NOT_RUN: Final[dict[str, dict[str, str]]] = {
    "CONTRIBUTING.md": {"make setup": SETS_UP},
    "README.md": {
        "make demo": SETS_UP,
        "make run": RUNS,
        "export ENCRYPTION_KEY=$(openssl rand -hex 32)": CONTAINERS,
    },
    "docs/first-run.md": {"pip install ./clients/python": INSTALLS},
    "docs/local-model.md": {"cloutagent-server up --local-model": RUNS},
    "docs/operations.md": {
        "cp .env.example .env && chmod 600 .env": CONTAINERS,
        "install -d -m 0700 -o 10001 /etc/cloutagent/tls": ROOT,
        "docker-compose --profile prod up -d": CONTAINERS,
        "docker-compose --profile prod exec server cloutagent-server doctor": CONTAINERS,
        "docker-compose --profile prod exec server cloutagent-server backup --executions --output "
        "/app/backups/before-upgrade.tar.gz": RELEASES,
        "docker-compose --profile prod down": RELEASES,
        "openssl rand -hex 32": CONTAINERS,
        "GRPC_PORT=50051 METRICS_PORT=9464 cloutagent-server serve": RUNS,
        "docker-compose --profile prod exec server python -c \\": CONTAINERS,
        "cloutagent-server restore before-upgrade.tar.gz --replace": REPLACES,
        "docker-compose --profile prod run --rm -T server sh -c 'umask 077; cat > /app/backups/back.tar.gz' < "
        "before-upgrade.tar.gz": CONTAINERS,
        "make bench-rest": MINUTES,
        "make bench-clients": MINUTES,
    },
    "docs/releasing.md": {"git tag -a v0.1.0 -m v0.1.0": PUBLISHES},
    "docs/quickstart.md": {"make run": RUNS},
    "examples/README.md": {"make run": RUNS, "make example NAME=support_assistant": IS_MAKE},
}
"""By page, then by the first line of the snippet, without its comment."""
