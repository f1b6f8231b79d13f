#!/usr/bin/env bash
# Installs the pinned clients under .clients/, outside the system's Python, and does nothing where that was done.
set -euo pipefail
cd "$(dirname "$0")"
unset PYTHONDONTWRITEBYTECODE # az takes seconds longer to start without compiled modules
at=$(cd .. && pwd)/.clients
mkdir -p "$at/npm"

# Debian has python3 without venv, in a package of its own.
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  echo "clients: az needs Python 3 with venv; install it first (Debian and Ubuntu: apt-get install python3-venv)" >&2
  exit 1
fi
if ! cmp -s requirements.txt "$at/requirements.txt"; then
  echo "clients: az and Azure's SDK for Python (a minute or three)"
  rm -rf "$at/venv"
  python3 -m venv "$at/venv"
  "$at/venv/bin/pip" install -q --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$at/requirements.txt"
fi

if ! command -v npm >/dev/null; then
  echo "clients: npm is missing (Debian and Ubuntu: apt-get install nodejs npm): Azure's SDK for JavaScript is left out, and its rows of the table with it" >&2
elif ! cmp -s npm/package-lock.json "$at/npm/package-lock.json"; then
  echo "clients: Azure's SDK for JavaScript"
  rm -rf "$at/npm/node_modules"
  cp npm/package.json "$at/npm/"
  (cd "$at/npm" && cp "$OLDPWD/npm/package-lock.json" . && npm ci --silent --no-audit --no-fund || { rm -f package-lock.json; exit 1; })
fi
