#!/usr/bin/env bash
# Installs each package of target/dist where nothing is but a bare base system, serves the demo model there, scores the example
# file, and compares the rewards bit for bit with those of the clone's own program. As root: it mounts overlays.
#
#   packaging/newcomer.sh                      all channels on Debian 11 and 12
#   packaging/newcomer.sh bookworm deb         one
#
# Needs debootstrap (Debian), the clone's program (`cargo build --release`), and what packaging/dist.sh has made.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
PLACE=$ROOT/target/newcomer
DIST=$ROOT/target/dist
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SUITES=${1:-bullseye bookworm}
CHANNELS=${2:-wheel tar deb rpm image}

mkdir -p "$PLACE"
mounted=()
cleanup() {
  for mount in "${mounted[@]}"; do umount --lazy "$mount" 2> /dev/null || true; done
}
trap cleanup EXIT

# The clone's answer, and the demo model's base, which all channels find in their cache: what is tried here is ours, not PyPI.
export REWARD_SIDECAR_CACHE_DIR=$PLACE/cache
target/release/reward-sidecar score --model demo --input examples/rollouts.jsonl --output "$PLACE/expected.jsonl" --log warn
unset REWARD_SIDECAR_CACHE_DIR

base() { # SUITE
  [ -e "$PLACE/$1/usr/bin/apt-get" ] || debootstrap --variant=minbase --include=ca-certificates "$1" "$PLACE/$1" "$MIRROR" > "$PLACE/$1.log"
}

# A copy of a base that keeps nothing: overlay FOLDER of SUITE.
overlay() {
  mkdir -p "$PLACE/work/$2"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=$PLACE/$1,upperdir=$PLACE/work/$2/upper,workdir=$PLACE/work/$2/work" "$PLACE/work/$2/root"
  mounted+=("$PLACE/work/$2/root")
  mount -t proc proc "$PLACE/work/$2/root/proc"
  mounted=("$PLACE/work/$2/root/proc" "${mounted[@]}")
  mount --rbind /dev "$PLACE/work/$2/root/dev"
  mounted=("$PLACE/work/$2/root/dev" "${mounted[@]}")
  cp /etc/resolv.conf "$PLACE/work/$2/root/etc/resolv.conf"
  # However this machine reaches package registries.
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$PLACE/work/$2/root/etc/pip.conf"
  cp /etc/ssl/certs/ca-certificates.crt "$PLACE/work/$2/root/etc/ssl/certs/ca-certificates.crt"
}

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/venv/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
apt() { inside apt-get update -qq && inside apt-get install -y -qq --no-install-recommends "$@" > /dev/null; }

# What a user does first, by channel; the program is then on the PATH.
install_wheel() {
  apt python3 python3-venv
  cp "$DIST"/reward_sidecar-*"$(uname -m)".whl "$root/tmp"
  inside python3 -m venv /venv
  inside sh -c '/venv/bin/pip install -q /tmp/reward_sidecar-*.whl'
}
install_tar() {
  tar --zstd -xf "$DIST"/reward-sidecar-*-"$(uname -m)"-linux.tar.zst -C "$root/tmp"
  cp -a "$root"/tmp/reward-sidecar-*/. "$root/usr/local/"
  ln -sf /usr/local/bin/reward-sidecar "$root/usr/bin/reward-sidecar"
}
install_deb() {
  cp "$DIST"/reward-sidecar_*_"$(dpkg --print-architecture)".deb "$root/tmp"
  inside sh -c 'apt-get update -qq && apt-get install -y -qq --no-install-recommends /tmp/*.deb > /dev/null 2>&1'
  inside sh -c 'dpkg --verify reward-sidecar'
}
install_rpm() {
  # The base has no packages of its own in rpm's books, so what it provides is not looked up there.
  apt rpm
  cp "$DIST"/reward-sidecar-*."$(uname -m)".rpm "$root/tmp"
  inside sh -c 'rpm --install --nodeps /tmp/*.rpm'
}

# Serves the demo, asks until it is ready, scores over the socket's engine and from the file, stops by SIGTERM.
try() {
  mkdir -p "$root/root/.cache" && cp -a "$PLACE/cache" "$root/root/.cache/reward-sidecar"
  cp examples/rollouts.jsonl "$root/tmp/"
  inside reward-sidecar serve --model demo --grpc off --uds /tmp/s --admin 127.0.0.1:19464 --log warn &
  local server=$!
  until inside reward-sidecar health --admin 127.0.0.1:19464 > /dev/null 2>&1; do
    kill -0 "$server" || return 1
    sleep 0.1
  done
  inside reward-sidecar score --model demo --input /tmp/rollouts.jsonl --output /tmp/rewards.jsonl --log warn
  kill -TERM "$server"
  wait "$server"
  cmp "$root/tmp/rewards.jsonl" "$PLACE/expected.jsonl"
}

# The image has no shell: its own program is asked, as its own user, on a root that is its own.
try_image() {
  root=$PLACE/work/image
  rm -rf "$root"
  cp -a "$DIST/image/rootfs" "$root"
  cp -a "$PLACE/cache/." "$root/cache"
  cp examples/rollouts.jsonl "$root/tmp/"
  chown -R 65532:65532 "$root/cache"
  chroot --userspec=65532:65532 "$root" /usr/bin/reward-sidecar score --model demo --cache-dir /cache \
    --input /tmp/rollouts.jsonl --output /tmp/rewards.jsonl --log warn
  cmp "$root/tmp/rewards.jsonl" "$PLACE/expected.jsonl"
}

printf '%-10s %-8s %10s  %s\n' system channel seconds result
failed=0
for suite in $SUITES; do
  base "$suite"
  for channel in $CHANNELS; do
    [ "$channel" != image ] || continue
    name=$suite-$channel
    rm -rf "${PLACE:?}/work/$name"
    overlay "$suite" "$name"
    root=$PLACE/work/$name/root
    began=$(date +%s.%N)
    result=ok
    # In a shell of its own, which ends at its first mistake.
    ( set -e; "install_$channel"; try ) > "$PLACE/$name.log" 2>&1 || { result="FAILED, see $PLACE/$name.log"; failed=1; }
    printf '%-10s %-8s %10.1f  %s\n' "$suite" "$channel" "$(echo "$(date +%s.%N) $began" | awk '{print $1 - $2}')" "$result"
    cleanup
    mounted=()
  done
done
case $CHANNELS in
  *image*)
    began=$(date +%s.%N)
    result=ok
    try_image > "$PLACE/image.log" 2>&1 || { result="FAILED, see $PLACE/image.log"; failed=1; }
    printf '%-10s %-8s %10.1f  %s\n' none image "$(echo "$(date +%s.%N) $began" | awk '{print $1 - $2}')" "$result"
    ;;
esac
exit $failed
