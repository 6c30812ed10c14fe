#!/usr/bin/env bash
# Builds the HTTP/2 conformance suite into .tools/bin from the versions that tests/h2spec pins.
set -eu
cd "$(dirname "$0")/.."
tool=$PWD/.tools/bin/h2spec
if [ -x "$tool" ] && [ "$tool" -nt tests/h2spec/go.sum ]; then
    exit 0
fi
echo "Building h2spec"
mkdir -p "${tool%/*}"
cd tests/h2spec
go build -o "$tool" github.com/summerwind/h2spec/cmd/h2spec
