#!/usr/bin/env bash
# Licences, advisories and sources of dependencies, with cargo-deny where it is installed; without it the licences and the
# one-stack rule alone, which need no tool. CI says which of the two it ran.
set -eu
cd "$(dirname "$0")/.."
if command -v cargo-deny >/dev/null; then
    exec cargo deny check bans licenses sources
fi
echo "cargo-deny is not installed (cargo install cargo-deny): checking licences and bans from cargo metadata alone"
exec cargo run --locked --quiet -p xtask -- licences
