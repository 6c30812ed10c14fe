#!/usr/bin/env bash
# Installs what is missing of Debian's packages for the given purposes: build, run, test, bench.
# As a user other than root it says the exact command instead.
set -eu

missing=()
# need PACKAGE TEST..: the package is missing when the test fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
server_binaries() { compgen -G '/usr/lib/postgresql/*/bin/initdb'; }

for purpose in "$@"; do
    case $purpose in
        build)
            need gcc command -v cc
            need libc6-dev test -e /usr/include/stdio.h
            need make command -v make
            need cmake command -v cmake
            need git command -v git
            if ! command -v cargo >/dev/null; then
                echo "error: Rust is not installed: there is no cargo on the path" >&2
                echo " next: install Rust 1.95 or newer (rust-lang.org/tools/install)" >&2
                exit 1
            fi
            # Node.js comes with scripts/node.sh, which needs one of these when the system's is too old.
            if ! command -v node >/dev/null; then
                need nodejs command -v node
                need npm command -v npm
            fi
            need python3-venv python3 -m venv --help
            ;;
        run)
            need postgresql server_binaries
            need git command -v git
            need openssh-client command -v ssh-keygen
            need util-linux command -v setpriv
            need curl command -v curl
            # For `signet policy diff` and `report`.
            need cvc5 command -v cvc5
            # For `signet demo --netns`.
            need iproute2 command -v ip
            need nftables command -v nft
            ;;
        test)
            need chromium command -v chromium
            need golang-go command -v go
            need iptables command -v iptables-restore
            ;;
        bench)
            need nginx-light command -v nginx
            need haproxy command -v haproxy
            need iproute2 command -v ip
            need openssl command -v openssl
            need util-linux command -v taskset
            ;;
        *)
            echo "error: setup knows no purpose \`$purpose\`" >&2
            exit 2
            ;;
    esac
done

if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "error: missing: ${missing[*]}" >&2
    echo " next: install these with your system's package manager (the names are Debian's)" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "error: missing: ${missing[*]}" >&2
    echo " next: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
