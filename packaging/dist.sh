#!/usr/bin/env bash
# Packages for other machines, all into target/dist: wheel, archive, .deb, .rpm, image, SBOM, checksums.
# The same commit is to give the same bytes, in whatever folder it is built: packaging/reproduce.sh compares them.
#
#   packaging/dist.sh                              for this machine's processor
#   packaging/dist.sh x86_64 aarch64               for these, this machine's first (rustup target add aarch64-unknown-linux-gnu,
#                                                  and binutils-aarch64-linux-gnu); the image is of this machine's alone
#
# It needs what `make python` needs, dpkg-deb, rpmbuild and zstd. Its own tools go to target/dist-tools.
set -euo pipefail
cd "$(dirname "$0")/.."

ROOT=$PWD
OUT=$ROOT/target/dist
STAGE=$ROOT/target/dist-stage
TOOLS=$ROOT/target/dist-tools
GLIBC=2.28
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
[ $# -gt 0 ] || set -- "$(uname -m)"

packaging/tools.sh "$TOOLS"
export PATH=$TOOLS/bin:$TOOLS/venv/bin:$PATH

# What the bytes depend on: the commit, its date, and no folder of this machine. Without git, both are given.
if [ -z "${REWARD_SIDECAR_COMMIT:-}" ]; then
  REWARD_SIDECAR_COMMIT=$(git rev-parse --short=12 HEAD)
  git diff --quiet HEAD || REWARD_SIDECAR_COMMIT+=-changed
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
SYSROOT=$(rustc --print sysroot)
RUSTFLAGS="--remap-path-prefix=$ROOT=/reward-sidecar --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$SYSROOT=/rust"
export REWARD_SIDECAR_COMMIT SOURCE_DATE_EPOCH RUSTFLAGS
umask 022

for tool in dpkg-deb rpmbuild zstd; do
  command -v "$tool" > /dev/null || { echo "dist: $tool is missing; install Debian's packages dpkg, rpm and zstd" >&2; exit 2; }
done
rm -rf "$OUT" "$STAGE"
mkdir -p "$OUT" "$STAGE"

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

# The SBOM. Its paths would be this machine's.
cargo cyclonedx --quiet --format json --override-filename reward-sidecar.cdx
SBOM=$STAGE/reward-sidecar-$VERSION.cdx.json
sed "s|$ROOT|/reward-sidecar|g" reward-sidecar.cdx.json > "$SBOM"
rm -f reward-sidecar.cdx.json integration/python/reward-sidecar.cdx.json
cp "$SBOM" "$OUT"

for machine in "$@"; do
  target=$machine-unknown-linux-gnu
  echo "== $target, glibc $GLIBC or newer"
  cargo auditable zigbuild --release --locked --bin reward-sidecar --target "$target.$GLIBC"
  binary=$ROOT/target/$target/release/reward-sidecar
  # Built for this machine, it makes the pages for all.
  HOST_BINARY=$ROOT/target/$(uname -m)-unknown-linux-gnu/release/reward-sidecar
  [ -x "$HOST_BINARY" ] || { echo "build $(uname -m) first: its program writes the manual pages" >&2; exit 2; }

  stage=$STAGE/$machine
  mkdir "$stage"
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
  packaging/rpm/build.sh "$machine" "$VERSION" "$stage" "$OUT"

  CARGO=$ROOT/packaging/wheel.sh \
    MATURIN="--auditwheel check --compatibility manylinux_${GLIBC/./_} --target $target --sbom-include $SBOM --out $OUT
      --manifest-path integration/python/Cargo.toml" \
    cargo-auditable auditable zigbuild --release --locked --target "$target.$GLIBC"
done

stage=$STAGE/$(uname -m)
if [ -e "$stage/reward-sidecar" ]; then
  packaging/image/rootfs.sh "$stage/reward-sidecar" "$stage/image"
  packaging/image/archive.py "$stage/image" "$(uname -m)" "$VERSION" "$stage/image.tar"
  zstd -q -19 -T2 "$stage/image.tar" -o "$OUT/reward-sidecar-$VERSION-$(uname -m)-image.tar.zst"
fi
(cd "$OUT" && find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)
cat "$OUT/SHA256SUMS"
