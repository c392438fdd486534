#!/bin/sh
# Have the servers that the tests start for themselves: databases, found or installed with apt where that is possible,
# and an OpenID provider and an S3 server, installed with npm.
set -eu
cd "$(dirname "$0")/../.."
check() { .venv/bin/python -m tests.support.services; }

.venv/bin/python -m tests.support.oidc

if check 2>/dev/null; then exit 0; fi

sudo=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo='sudo -n'; else sudo=no; fi
fi
packages=
.venv/bin/python -m tests.support.services 2>&1 | grep -q '^\(PostgreSQL\|MariaDB\)' && packages='postgresql mariadb-server'
command -v npm >/dev/null 2>&1 || packages="$packages npm"
if [ -n "$packages" ] && command -v apt-get >/dev/null 2>&1 && [ "$sudo" != no ]; then
    check || true
    echo "Installing $packages with apt-get ..." >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
    # shellcheck disable=SC2086 # several words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages >&2 || true
fi
if command -v npm >/dev/null 2>&1 && [ ! -e .venv/s3rver/node_modules/s3rver/bin/s3rver.js ]; then
    echo 'Installing s3rver with npm ...' >&2
    npm install --prefix .venv/s3rver --no-audit --no-fund --no-save --ignore-scripts s3rver@3.7.1 >&2 || true
fi
if ! check; then
    echo 'The tests run against real PostgreSQL, MariaDB and S3 servers and are never skipped: see above for what is missing.' >&2
    exit 1
fi
