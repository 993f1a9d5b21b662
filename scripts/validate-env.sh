#!/usr/bin/env bash
# Checks the settings in the environment and in .env of this repository: every fault with its remedy, and exit code 1.
# Takes the options of `cloutagent-server validate-env`, such as --local-model.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/cloutagent-server ] || make setup >&2
exec .venv/bin/cloutagent-server validate-env "$@"
