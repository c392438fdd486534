#!/bin/sh
# Make .venv with a Python that is new enough and install dbward into it, with visible progress.
#   setup.sh run    what `make demo` needs
#   setup.sh dev    everything: tests, linters, bench
set -eu
cd "$(dirname "$0")/../.."
what=${1:-dev}
case $what in
run) extras=server,agent ;;
dev) extras=dev ;;
*) echo "usage: setup.sh run|dev" >&2; exit 2 ;;
esac

say() { printf '%s\n' "$*" >&2; }
good() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        good "$PYTHON" && { echo "$PYTHON"; return; }
        say "PYTHON=$PYTHON is not a Python 3.11 or newer."
        return 1
    fi
    for name in python3 python3.13 python3.12 python3.11 python3.14 python; do
        if command -v "$name" >/dev/null 2>&1 && good "$name"; then
            echo "$name"
            return
        fi
    done
    say "dbward needs Python 3.11 or newer, and none is on PATH."
    say "Found: $(python3 --version 2>/dev/null || echo 'no python3 at all')."
    say "Install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv; macOS: brew install python@3.13),"
    say "or name it: make PYTHON=/path/to/python3.12 ..."
    return 1
}

# As root, with sudo that asks for nothing, or not at all.
privileged() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then sudo -n "$@"; else return 1; fi
}

make_venv() {
    "$1" -m venv .venv >.venv-log 2>&1 && [ -x .venv/bin/pip ]
}

# An environment made at another place, or by a Python that is gone, is of no use.
if [ -d .venv ] && ! { good .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    say "The .venv here does not work any more; making it anew."
    rm -rf .venv
fi

if [ ! -d .venv ]; then
    python=$(find_python)
    say "Making .venv with $("$python" --version 2>&1) ..."
    if ! make_venv "$python"; then
        rm -rf .venv
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "This Python cannot make virtual environments; on Debian and Ubuntu that is a package of its own."
        if command -v apt-get >/dev/null 2>&1 && privileged true; then
            say "Installing python$version-venv ..."
            privileged env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -q && (apt-get install -y -q --no-install-recommends python$version-venv || apt-get install -y -q --no-install-recommends python3-venv)" >&2 || true
        fi
        if ! make_venv "$python"; then
            rm -rf .venv
            cat .venv-log >&2
            rm -f .venv-log
            say "Install it (apt-get install python$version-venv) or choose another Python (make PYTHON=...), then run this again."
            exit 1
        fi
    fi
    rm -f .venv-log
fi

log=.venv/install.log
say "Installing dbward[$extras] and what it depends on into .venv (log: $log) ..."
.venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off -e ".[$extras]" >"$log" 2>&1 &
pip=$!
trap 'kill $pip 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
seconds=0
shown=0
while kill -0 $pip 2>/dev/null; do
    sleep 1
    seconds=$((seconds + 1))
    count=$(grep -c '^Collecting\|^ *Downloading' "$log" || true)
    last=$(grep '^Collecting\|^ *Downloading\|^Installing\|^Building' "$log" | tail -n 1 | cut -c 1-60 || true)
    if [ -t 2 ]; then
        printf '\r\033[K  %3ds  %s steps  %s' "$seconds" "$count" "$last" >&2
    elif [ $((seconds % 5)) = 0 ] && [ "$count/$last" != "$shown" ]; then
        printf '  %3ds  %s steps  %s\n' "$seconds" "$count" "$last" >&2
        shown="$count/$last"
    fi
done
if [ -t 2 ]; then printf '\r\033[K' >&2; fi
trap - EXIT
if ! wait $pip; then
    tail -n 30 "$log" >&2
    say ""
    say "Installing failed; the end of the log is above, all of it is in $log."
    say "The packages come from PyPI (or what PIP_INDEX_URL names): is there a connection to it?"
    exit 1
fi
say "Installed in ${seconds} s."
touch .venv/.run
[ "$what" = run ] || touch .venv/.dev
