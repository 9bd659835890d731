#!/usr/bin/env bash
# The Debian package: build.sh MACHINE VERSION STAGE OUT. `STAGE/files` is laid out as on the user's machine.
set -euo pipefail
machine=$1 version=$2 stage=$3 out=$4
here=$(dirname "$(readlink -f "$0")")
case $machine in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) echo "no Debian architecture is known for $machine" >&2; exit 2 ;;
esac

root=$stage/deb
cp -a "$stage/files" "$root"
install -D -m 644 "$here/../reward-sidecar.toml" "$root/etc/reward-sidecar.toml"
install -D -m 644 "$here/../systemd/reward-sidecar.service" "$root/usr/lib/systemd/system/reward-sidecar.service"
install -D -m 644 "$here/copyright" "$root/usr/share/doc/reward-sidecar/copyright"
changed=$(date -u -R --date="@$SOURCE_DATE_EPOCH")
sed "s/VERSION/$version/; s/DATE/$changed/" "$here/changelog" | gzip -9n > "$root/usr/share/doc/reward-sidecar/changelog.gz"
install -d "$root/DEBIAN"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN"
echo /etc/reward-sidecar.toml > "$root/DEBIAN/conffiles"
size=$(du -k -s --exclude=DEBIAN "$root" | cut -f1)
sed "s/VERSION/$version/; s/ARCHITECTURE/$architecture/; s/SIZE/$size/" "$here/control" > "$root/DEBIAN/control"
(cd "$root" && find etc usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum > DEBIAN/md5sums)
chmod 644 "$root"/DEBIAN/{conffiles,control,md5sums}
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/reward-sidecar_${version}_$architecture.deb" > /dev/null
