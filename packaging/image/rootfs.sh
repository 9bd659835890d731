#!/usr/bin/env bash
# The image's files: the program, the files of this system's C library that it loads, and a user. rootfs.sh PROGRAM FOLDER
# No shell, no package manager.
set -euo pipefail
program=$1 root=$2
umask 022
install -D -m 755 "$program" "$root/usr/bin/reward-sidecar"
# The loader and the libraries, where the program looks for them.
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
  install -D -m 755 "$(readlink -f "$library")" "$root$library"
done
install -d -m 1777 "$root/tmp"
install -d -m 700 "$root/cache"
mkdir -p "$root/etc"
echo 'reward-sidecar:x:65532:65532::/nonexistent:/usr/bin/reward-sidecar' > "$root/etc/passwd"
echo 'reward-sidecar:x:65532:' > "$root/etc/group"
