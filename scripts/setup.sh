#!/usr/bin/env bash
# Makes .venv with everything that requirements.lock pins and with both distributions of this repository, editable, and
# installs what the package-lock.json of clients/typescript and tests/clients pin.
# `make setup` calls it. PYTHON may name the interpreter to use; else the first of 3.11 or later on the PATH is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv

fail() {
  echo "setup: $*" >&2
  exit 1
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
    if is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python of version 3.11 or later found; install one, or set PYTHON to its path"
}

# Debian and Ubuntu ship `venv` in a package of its own.
install_venv_module() {
  local package
  package="python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
    fail "$1 cannot make virtual environments; install its venv module (on Debian and Ubuntu: $package)"
  fi
  echo "setup: installing $package"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$package" > /dev/null
}

install_node_packages() {
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null)
}

if ! { is_new_enough $venv/bin/python && $venv/bin/python -m pip --version > /dev/null 2>&1; }; then
  python=$(find_python)
  rm -rf $venv
  "$python" -c 'import ensurepip, venv' 2> /dev/null || install_venv_module "$python"
  "$python" -m venv $venv
fi

# The lock says which versions, and its hashes are checked. A constraint or a target folder from the environment or
# from pip's configuration files would only contradict it; certificates, proxies and package indexes still apply.
export PIP_CONSTRAINT=/dev/null PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PIP_TARGET PIP_PREFIX PIP_ROOT
pip() { $venv/bin/python -m pip "$@"; }

# uv installs several times faster than pip, but reads none of pip's configuration: it is told the index, and where it
# cannot get at everything, pip does it.
with_uv() {
  pip install --quiet --quiet --require-hashes --requirement <(sed -n '/^uv==/,/[^\\]$/p' requirements.lock) || return
  local index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-$(pip config get global.index-url 2> /dev/null || true)}}
  UV_DEFAULT_INDEX=$index $venv/bin/uv --quiet pip install --system-certs \
    --python $venv/bin/python --compile-bytecode --require-hashes --requirement requirements.lock
}

command -v npm > /dev/null || fail "no npm found; install Node 20 or later, for the TypeScript client and the tests"
echo "setup: installing what clients/typescript/package-lock.json and tests/clients/package-lock.json pin"
# Beside each other, for they mostly wait.
install_node_packages clients/typescript &
node_packages=$!
echo "setup: installing what requirements.lock pins into $venv"
with_uv || pip install --quiet --quiet --require-hashes --requirement requirements.lock
pip install --quiet --quiet --no-deps --no-build-isolation --editable clients/python --editable .

install_node_packages tests/clients
wait $node_packages
