#!/bin/sh
# Have the servers that the tests start for themselves: databases, found or installed with apt where that is possible,
# and servers from npm, installed beside the tests.
set -eu
cd "$(dirname "$0")/../.."
check() { .venv/bin/python -m tests.support.services; }

.venv/bin/python -m tests.support

if check 2>/dev/null; then exit 0; fi

sudo=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo='sudo -n'; else sudo=no; fi
fi
if command -v apt-get >/dev/null 2>&1 && [ "$sudo" != no ]; then
    check || true
    echo 'Installing PostgreSQL and MariaDB with apt-get ...' >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql mariadb-server >&2 || true
fi
if ! check; then
    echo 'The tests run against real PostgreSQL and MariaDB servers and are never skipped: see above for what is missing.' >&2
    exit 1
fi
