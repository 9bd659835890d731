#!/usr/bin/env bash
# Publishes what lies in target/dist, once it has been checked: the crate, the wheels, and the image where IMAGE names a place.
#
#   packaging/publish.sh --dry-run   checks everything, sends nothing; the same without an argument
#   packaging/publish.sh --really    the same, then sends
#
# The commit has the tag vVERSION, and target/dist was made of it. Credentials are those of cargo, twine and skopeo. What lies in
# target/dist and SHA256SUMS are for the release page of the forge.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:---dry-run} in
  --dry-run | --really) ;;
  *) echo "publish: '$1' is not known; give --dry-run or --really" >&2; exit 2 ;;
esac
DIST=target/dist
export PATH=$PWD/target/dist-tools/bin:$PWD/target/dist-tools/venv/bin:$PATH
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
COMMIT=$(git rev-parse --short=12 HEAD)
refuse() { echo "publish: $1" >&2; exit 2; }

(cd "$DIST" && sha256sum --quiet --check SHA256SUMS) || refuse "$DIST is not there, or not what its SHA256SUMS says; run make dist"
built=$(packaging/built_from.sh "$DIST")
if [ "${1:-}" = --really ]; then
  [ -z "$(git status --porcelain)" ] || refuse "there are changes that are not committed"
  [ "$(git tag --points-at HEAD --list "v$VERSION")" = "v$VERSION" ] || refuse "this commit has no tag v$VERSION"
  [ "$built" = "$COMMIT" ] || refuse "target/dist was built from $built, and this commit is $COMMIT; run make dist"
fi
twine check --strict "$DIST"/*.whl
check-wheel-contents "$DIST"/*.whl
cargo publish --locked --dry-run --no-verify --allow-dirty
if [ "${1:-}" != --really ]; then
  echo "checked, nothing sent: version $VERSION, built from $built; this commit is $COMMIT"
  exit 0
fi
cargo publish --locked
twine upload "$DIST"/*.whl
if [ -n "${IMAGE:-}" ]; then
  zstd -q -d -f "$DIST/reward-sidecar-$VERSION-$(uname -m)-image.tar.zst" -o target/dist-stage/image.tar
  skopeo copy "docker-archive:target/dist-stage/image.tar" "docker://$IMAGE:$VERSION"
fi
