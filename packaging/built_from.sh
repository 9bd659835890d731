#!/usr/bin/env bash
# The commit that the packages of a folder were built from, as their program says it: built_from.sh FOLDER
set -euo pipefail
machine=$(uname -m)
archives=("$1"/reward-sidecar-*-"$machine"-linux.tar.zst)
[ -e "${archives[0]}" ] || { echo "built_from: $1 holds no packages for $machine; run make dist" >&2; exit 2; }
name=$(basename "${archives[0]}" .tar.zst)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
tar --zstd -xf "${archives[0]}" -C "$place" "$name/bin/reward-sidecar"
"$place/$name/bin/reward-sidecar" --version | sed -n 's/^commit: //p'
