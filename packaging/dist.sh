#!/usr/bin/env bash
# Packages for other machines, all into target/dist: wheel, archive, .deb, .rpm, the image's build context, SBOM, checksums.
# The same commit gives the same bytes, in whatever folder it is built.
#
#   packaging/dist.sh                              for this machine's processor
#   packaging/dist.sh x86_64 aarch64               for these (rustup target add aarch64-unknown-linux-gnu)
#
# It needs what `make python` needs, dpkg-deb, and rpmbuild for the .rpm. Its own tools go to target/dist-tools.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=$PWD
OUT=$ROOT/target/dist
TOOLS=$ROOT/target/dist-tools
GLIBC=2.28
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
[ $# -gt 0 ] || set -- "$(uname -m)"

packaging/tools.sh "$TOOLS"
export PATH=$TOOLS/bin:$TOOLS/venv/bin:$PATH

# What the bytes depend on: the commit, its date, and no folder of this machine.
REWARD_SIDECAR_COMMIT=$(git rev-parse --short=12 HEAD)
git diff --quiet HEAD || REWARD_SIDECAR_COMMIT+=-changed
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
SYSROOT=$(rustc --print sysroot)
RUSTFLAGS="--remap-path-prefix=$ROOT=/reward-sidecar --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$SYSROOT=/rust"
export REWARD_SIDECAR_COMMIT SOURCE_DATE_EPOCH RUSTFLAGS
umask 022

rm -rf "$OUT"
mkdir -p "$OUT"

# A file's time is the commit's, wherever it is packed.
settle() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

# The folders of a package, as they lie on the user's machine: what .tar.zst, .deb, .rpm and image have in common.
lay_out() { # BINARY FOLDER
  install -D -m 755 "$1" "$2/usr/bin/reward-sidecar"
  # What runs here makes pages and completions; they do not depend on the processor.
  "$HOST_BINARY" man "$2/usr/share/man/man1"
  gzip -9n "$2"/usr/share/man/man1/*.1
  mkdir -p "$2"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
  "$HOST_BINARY" completions bash > "$2/usr/share/bash-completion/completions/reward-sidecar"
  "$HOST_BINARY" completions zsh > "$2/usr/share/zsh/vendor-completions/_reward-sidecar"
  "$HOST_BINARY" completions fish > "$2/usr/share/fish/vendor_completions.d/reward-sidecar.fish"
}

for machine in "$@"; do
  target=$machine-unknown-linux-gnu
  echo "== $target, glibc $GLIBC or newer"
  cargo auditable zigbuild --release --locked --bin reward-sidecar --target "$target.$GLIBC"
  binary=$ROOT/target/$target/release/reward-sidecar
  # Built for this machine, it makes the pages for all.
  HOST_BINARY=$ROOT/target/$(uname -m)-unknown-linux-gnu/release/reward-sidecar
  [ -x "$HOST_BINARY" ] || { echo "build $(uname -m) first: its program writes the manual pages" >&2; exit 2; }

  stage=$ROOT/target/dist-stage/$machine
  rm -rf "$stage"
  mkdir -p "$stage"
  packaging/strip.sh "$machine" "$binary" "$stage/reward-sidecar"

  lay_out "$stage/reward-sidecar" "$stage/files"
  settle "$stage/files"
  archive=reward-sidecar-$VERSION-$machine-linux
  cp -a "$stage/files/usr" "$stage/$archive"
  install -m 644 README.md LICENSE "$stage/$archive"
  settle "$stage/$archive"
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -C "$stage" -c "$archive" \
    | zstd -q -19 -T2 -o "$OUT/$archive.tar.zst"

  packaging/deb/build.sh "$machine" "$VERSION" "$stage" "$OUT"
  if command -v rpmbuild > /dev/null; then
    packaging/rpm/build.sh "$machine" "$VERSION" "$stage" "$OUT"
  else
    echo "no rpmbuild here: no .rpm" >&2
  fi

  maturin build --release --locked --quiet --zig --auditwheel skip --compatibility "manylinux_${GLIBC/./_}" --target "$target" \
    --manifest-path integration/python/Cargo.toml --out "$OUT"
done

cargo cyclonedx --quiet --format json --override-filename reward-sidecar.cdx
mv reward-sidecar.cdx.json "$OUT/reward-sidecar-$VERSION.cdx.json"
rm -f integration/python/reward-sidecar.cdx.json
packaging/image/context.sh "$ROOT/target/dist-stage/$(uname -m)/reward-sidecar" "$OUT/image"
(cd "$OUT" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)
cat "$OUT/SHA256SUMS"
