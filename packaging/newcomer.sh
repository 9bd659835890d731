#!/usr/bin/env bash
# Installs each package of target/dist where nothing is but a bare base system, serves the demo model there, scores the example
# file, and compares the rewards bit for bit with those of the clone's own program. As root: it mounts overlays.
#
#   packaging/newcomer.sh                      all channels on Debian 11 and 12
#   packaging/newcomer.sh bookworm deb         one
#
# Needs debootstrap (Debian), podman for the image, the clone's program (`cargo build --release`, or CLONE=its path), and what
# packaging/dist.sh has made.
set -euo pipefail
# Mounts of its own: nothing of them is left on this machine, nor comes to it.
[ -n "${NEWCOMER:-}" ] || NEWCOMER=1 exec unshare --mount "$0" "$@"
cd "$(dirname "$0")/.."
ROOT=$PWD
PLACE=$ROOT/target/newcomer
DIST=${DIST:-$ROOT/target/dist}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
SUITES=${1:-bullseye bookworm}
CHANNELS=${2:-wheel tar deb rpm image}
CLONE=${CLONE:-target/release/reward-sidecar}

mkdir -p "$PLACE"
mounted=()
cleanup() {
  for mount in "${mounted[@]}"; do umount --lazy "$mount" 2> /dev/null || true; done
}
trap cleanup EXIT

# The clone's answer, and the demo model's base, which all channels find in their cache: what is tried here is ours, not PyPI.
export REWARD_SIDECAR_CACHE_DIR=$PLACE/cache
"$CLONE" score --model demo --input examples/rollouts.jsonl --output "$PLACE/expected.jsonl" --log warn
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

enter() { exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin:/venv/bin HOME=/root DEBIAN_FRONTEND=noninteractive "$@"; }
inside() { (enter "$@"); }
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

# Serves the demo and asks until it is ready; scores the example file beside it; stops it by SIGTERM, which must end it with 0.
try() {
  mkdir -p "$root/root/.cache" && cp -a "$PLACE/cache" "$root/root/.cache/reward-sidecar"
  cp examples/rollouts.jsonl "$root/tmp/"
  # The process itself, so that the signal reaches it.
  (enter reward-sidecar serve --model demo --grpc off --uds /tmp/s --admin 127.0.0.1:19464 --log warn) &
  local server=$!
  until inside reward-sidecar health --admin 127.0.0.1:19464 > /dev/null 2>&1; do
    kill -0 "$server" || return 1
    sleep 0.1
  done
  inside reward-sidecar score --model demo --input /tmp/rollouts.jsonl --output /tmp/rewards.jsonl --log warn
  date +%s.%N > "$first"
  kill -TERM "$server"
  wait "$server"
  cmp "$root/tmp/rewards.jsonl" "$PLACE/expected.jsonl"
}

# The image as its users run it: a user namespace, nothing writable but the cache, no network. Health is asked by the image's own
# check. Podman in a mount namespace of its own, without the second hierarchy of a machine that has both kinds of cgroups, which
# crun refuses.
try_image() {
  command -v podman > /dev/null || { echo "podman is missing: apt-get install podman crun uidmap" >&2; return 1; }
  local place=$PLACE/work/image
  # What containers leave belongs to their users.
  rm -rf "$place"
  mkdir -p "$place/files" "$place/temporary"
  cp -a "$PLACE/cache" "$place/cache"
  cp examples/rollouts.jsonl "$place/files"
  chown -R 165532:165532 "$place/cache" "$place/files"
  zstd -q -d "$DIST"/reward-sidecar-*-"$(uname -m)"-image.tar.zst -o "$place/image.tar"
  place=$place first=$first unshare --mount bash -euo pipefail -c "$(declare -f in_podman); in_podman"
  cmp "$place/files/rewards.jsonl" "$PLACE/expected.jsonl"
}

in_podman() {
  umount /sys/fs/cgroup/unified 2> /dev/null || true
  pod() { TMPDIR=$place/temporary podman --storage-driver vfs --root "$place/storage" --runroot "$place/run" --cgroup-manager cgroupfs --log-level fatal "$@"; }
  local image server
  trap 'pod kill --all > /dev/null' EXIT
  image=$(pod load --quiet --input "$place/image.tar" | sed 's/^Loaded image: //')
  server=$(pod run --detach --read-only --network none --uidmap 0:100000:65537 --gidmap 0:100000:65537 \
    --ulimit nofile=4096:4096 --ulimit nproc=4096:4096 --cgroups disabled \
    --volume "$place/cache:/cache" --volume "$place/files:/files" "$image" serve --model demo --grpc 127.0.0.1:50051)
  until pod healthcheck run "$server" > /dev/null 2>&1; do
    [ "$(pod inspect --format '{{.State.Status}}' "$server")" = running ] || { pod logs "$server"; return 1; }
    sleep 0.1
  done
  grep -q '^Uid:.165532' "/proc/$(pod inspect --format '{{.State.Pid}}' "$server")/status"
  pod exec "$server" /usr/bin/reward-sidecar score --model demo --input /files/rollouts.jsonl --output /files/rewards.jsonl --log warn
  date +%s.%N > "$first"
  pod stop --time 60 "$server" > /dev/null
  [ "$(pod inspect --format '{{.State.ExitCode}}' "$server")" = 0 ]
}

# The file of a channel.
package() {
  case $1 in
    wheel) echo "$DIST"/reward_sidecar-*"$(uname -m)".whl ;;
    tar) echo "$DIST"/reward-sidecar-*-"$(uname -m)"-linux.tar.zst ;;
    deb) echo "$DIST"/reward-sidecar_*_"$(dpkg --print-architecture)".deb ;;
    rpm) echo "$DIST"/reward-sidecar-*."$(uname -m)".rpm ;;
    image) echo "$DIST"/reward-sidecar-*-"$(uname -m)"-image.tar.zst ;;
    *) echo "newcomer: no channel '$1'; there are wheel, tar, deb, rpm and image" >&2; exit 2 ;;
  esac
}

# One line of the table: try_channel SYSTEM CHANNEL COMMAND... Seconds are those from nothing to the first reward.
try_channel() {
  local system=$1 channel=$2 log=$PLACE/$1-$2.log first=$PLACE/$1-$2.first began seconds=- result=ok size
  shift 2
  size=$(stat -c %s "$(package "$channel")")
  rm -f "$first"
  began=$(date +%s.%N)
  # In a shell of its own, which ends at its first mistake. Bash has `set -e` mean nothing on the left of `||`, hence the `wait`.
  (set -e; "$@") > "$log" 2>&1 &
  wait $! || { result="FAILED, see $log"; failed=1; }
  [ ! -e "$first" ] || seconds=$(awk -v began="$began" '{printf "%.1f", $1 - began}' "$first")
  printf '%-10s %-8s %8.1f MB %10s s  %s\n' "$system" "$channel" "$(awk -v size="$size" 'BEGIN {print size / 1e6}')" "$seconds" "$result"
}

install_and_try() { # CHANNEL
  "install_$1"
  try
}

failed=0
for suite in $SUITES; do
  base "$suite"
  for channel in $CHANNELS; do
    [ "$channel" != image ] || continue
    # Its Python is 3.9, and the wheel's is 3.10.
    [ "$suite-$channel" != bullseye-wheel ] || continue
    name=$suite-$channel
    rm -rf "${PLACE:?}/work/$name"
    overlay "$suite" "$name"
    root=$PLACE/work/$name/root
    try_channel "$suite" "$channel" install_and_try "$channel"
    cleanup
    mounted=()
  done
done
case $CHANNELS in
  *image*) try_channel none image try_image ;;
esac
exit $failed
