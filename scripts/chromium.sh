#!/bin/sh
# Prints the path of a Chromium for the dashboard's browser test:  CHROMIUM="$(scripts/chromium.sh)" npm run e2e
# Without one it installs Debian's as root, and otherwise says the command that would.
set -eu
for name in ${CHROMIUM:-} chromium chromium-browser google-chrome; do
    if path=$(command -v "$name"); then
        echo "$path"
        exit 0
    fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "chromium.sh: installing chromium" >&2
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >&2
    command -v chromium
    exit 0
fi
echo "chromium.sh: no Chromium on PATH; install it: sudo apt-get install chromium" >&2
exit 1
