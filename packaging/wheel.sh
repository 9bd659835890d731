#!/usr/bin/env bash
# Stands in for cargo, so that the wheel's library is built with the compilers and flags of the program, out of the same crates:
# cargo-auditable calls it with `zigbuild`, cargo-zigbuild then with `build`. Otherwise each would have a build of its own.
#
#   CARGO=packaging/wheel.sh MATURIN="arguments for maturin" cargo-auditable auditable zigbuild --release --locked --target TARGET
set -euo pipefail
case $1 in
  zigbuild) exec cargo-zigbuild "$@" ;;
  build)
    unset CARGO
    # shellcheck disable=SC2086 # words, none of which holds a space
    exec maturin build --release --locked $MATURIN
    ;;
  *) exec cargo "$@" ;;
esac
