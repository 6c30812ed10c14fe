#!/usr/bin/env bash
# Builds the second verifier of evidence packages into .tools/bin, from Go's own transparency-log packages.
set -eu
cd "$(dirname "$0")/.."
tool=$PWD/.tools/bin/second-verifier
if [ -x "$tool" ] && [ "$tool" -nt tests/second-verifier/main.go ] && [ "$tool" -nt tests/second-verifier/go.sum ]; then
    exit 0
fi
echo "Building the second verifier"
mkdir -p "${tool%/*}"
cd tests/second-verifier
go build -o "$tool" .
