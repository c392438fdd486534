#!/bin/sh
# Have what the tests start for themselves: databases and nginx, found or installed with apt where that is possible,
# servers from npm, installed beside the tests, and what builds, runs and checks that which is deployed.
set -eu
cd "$(dirname "$0")/../.."
check() { .venv/bin/python -m tests.support.services; }

.venv/bin/python -m tests.support

# Have what a list in this folder names, in an environment of its own below .venv: its libraries are of other versions.
programs() {
    if ! cmp -s "deploy/dev/$1.txt" ".venv/$1/installed.txt"; then
        if [ -n "${PIP_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi
        .venv/bin/uv venv --quiet --clear --python .venv/bin/python ".venv/$1"
        .venv/bin/uv pip install --quiet --python ".venv/$1/bin/python" --only-binary :all: -r "deploy/dev/$1.txt"
        cp "deploy/dev/$1.txt" ".venv/$1/installed.txt"
    fi
}
programs tools
programs checkov

sudo=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo='sudo -n'; else sudo=no; fi
fi
# Install packages where apt and the right to use it are there; what is still missing is for the caller to see.
install() {
    if ! command -v apt-get >/dev/null 2>&1 || [ "$sudo" = no ]; then return; fi
    echo "Installing $* with apt-get ..." >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2 || true
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >&2 || true
}

# Without these the tests of the images fail for root and are skipped for others, each saying why.
.venv/bin/python -m tests.support.engine || install podman runc iptables netavark aardvark-dns mmdebstrap debian-archive-keyring

# What the completion of the command line is tried in.
for shell in bash zsh fish; do
    command -v "$shell" >/dev/null 2>&1 || install "$shell"
done

check 2>/dev/null || install postgresql mariadb-server nginx-light
if ! check; then
    echo 'The tests run against real PostgreSQL, MariaDB and nginx and are never skipped: see above for what is missing.' >&2
    exit 1
fi
