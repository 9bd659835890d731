#!/usr/bin/env bash
# Builds the packages of this commit again in another folder, and compares every byte with what lies in target/dist.
#
#   packaging/dist.sh && packaging/reproduce.sh [x86_64 aarch64]      default: those that lie there
#
# It takes as long as the first build: nothing but the tools is shared.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
if [ $# -eq 0 ]; then
  # This machine's first, as dist.sh wants them.
  for archive in "target/dist/reward-sidecar-"*"-$(uname -m)-linux.tar.zst" target/dist/reward-sidecar-*-linux.tar.zst; do
    machine=${archive%-linux.tar.zst}
    machine=${machine##*-}
    case " $* " in *" $machine "*) ;; *) set -- "$@" "$machine" ;; esac
  done
fi
OTHER=$(mktemp -d "$ROOT/target/another-folder-XXXXXX")
trap 'git worktree remove --force "$OTHER/again"; rm -rf "$OTHER"' EXIT
git worktree add --quiet --detach "$OTHER/again" HEAD
mkdir "$OTHER/again/target"
ln -s "$ROOT/target/dist-tools" "$OTHER/again/target/dist-tools"
"$OTHER/again/packaging/dist.sh" "$@"
diff "$ROOT/target/dist/SHA256SUMS" "$OTHER/again/target/dist/SHA256SUMS"
echo "the same bytes in both folders"
