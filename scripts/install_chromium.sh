#!/usr/bin/env bash
# Installs Debian's headless Chromium, in which the tests try the TypeScript client, unless there is one that they find
# (clients/typescript/test/live/chromium.ts) or this may not install packages. `make test` calls it; without a Chromium
# those tests fail and say what is missing.
set -euo pipefail

for name in chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable; do
  if [ -n "${CHROMIUM-}" ] || command -v "$name" > /dev/null; then
    exit 0
  fi
done
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "install_chromium: there is none; install one, or set CHROMIUM to the path of one" >&2
  exit 0
fi
echo "install_chromium: installing chromium-headless-shell"
if ! { apt-get -qq update && DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes \
  apt-get -qq install --yes --no-install-recommends chromium-headless-shell > /dev/null; }; then
  echo "install_chromium: it is not to be had; install a Chromium, or set CHROMIUM to the path of one" >&2
fi
