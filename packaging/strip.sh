#!/usr/bin/env bash
# A program without its symbols: strip.sh MACHINE PROGRAM STRIPPED. Debian's cross tools have a strip for other processors.
set -euo pipefail
machine=$1 program=$2 stripped=$3
strip=strip
if [ "$machine" != "$(uname -m)" ]; then
  strip=$machine-linux-gnu-strip
fi
"$strip" --strip-all --keep-section=.dep-v0 -o "$stripped" "$program"
