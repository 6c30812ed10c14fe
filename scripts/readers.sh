#!/usr/bin/env bash
# Puts other people's readers of exports (Parquet, OCSF's schema) into .tools/readers, for the tests that read back
# what we wrote. The versions are pinned in audit/export/tests/readers.txt.
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/.tools/readers
pins=$PWD/audit/export/tests/readers.txt
if [ -e "$tools/ready" ] && cmp -s "$pins" "$tools/ready"; then
    exit 0
fi
echo "Installing the readers of exports"
rm -rf "$tools"
python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check --requirement "$pins"
cp "$pins" "$tools/ready"
