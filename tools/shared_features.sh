#!/usr/bin/env bash
# The binary, its tests and the Python package share one build: a library that they have in common has the same features
# in all three. Otherwise it is built again for each, and with it everything that stands on it (candle: ten minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

# Package, version and features; once for each set of features.
tree() {
  "${CARGO:-cargo}" tree --locked --prefix none --no-dedupe --format '{p} {f}' "$@" | sed -e 's/ (\*)$//' -e 's/ (proc-macro)//' | sort -u
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
tree --edges normal,build >"$folder/binary"
tree --edges normal,build,dev >"$folder/tests"
tree --edges normal,build --package reward-sidecar-python >"$folder/package"

different=0
for other in tests package; do
  # Lines that one of the two lacks, of packages that neither does.
  comm -3 "$folder/binary" "$folder/$other" | sed 's/^\t//' | while read -r name version features; do
    if [ "$(grep -hc "^$name $version " "$folder/binary" "$folder/$other" | grep -vc '^0$')" = 2 ]; then
      echo "$name $version: $features"
    fi
  done >"$folder/different"
  if [ -s "$folder/different" ]; then
    echo "the binary and its $other have different features of:" >&2
    cat "$folder/different" >&2
    different=1
  fi
done
exit "$different"
