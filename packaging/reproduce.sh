#!/usr/bin/env bash
# Builds what lies in target/dist again, of the same commit in another folder, and compares every byte.
#
#   packaging/dist.sh && packaging/reproduce.sh [x86_64 aarch64]      default: those that lie there
#
# It takes as long as a first build: nothing but the tools is shared.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
COMMIT=$(packaging/built_from.sh target/dist)
case $COMMIT in
  *-changed) echo "reproduce: target/dist holds changes that are not committed; commit them and run make dist" >&2; exit 2 ;;
esac
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
git worktree add --quiet --detach "$OTHER/again" "$COMMIT"
mkdir "$OTHER/again/target"
ln -s "$ROOT/target/dist-tools" "$OTHER/again/target/dist-tools"
"$OTHER/again/packaging/dist.sh" "$@"
# All that was built again, and nothing else: fewer machines may have been asked for than lie there.
(cd "$ROOT/target/dist" && sha256sum --check "$OTHER/again/target/dist/SHA256SUMS")
echo "the same bytes in both folders, of commit $COMMIT"
