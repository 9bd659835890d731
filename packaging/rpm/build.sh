#!/usr/bin/env bash
# The RPM package: build.sh MACHINE VERSION STAGE OUT. `STAGE/files` is laid out as on the user's machine.
set -euo pipefail
machine=$1 version=$2 stage=$3 out=$4
here=$(dirname "$(readlink -f "$0")")
root=$stage/rpm-files
cp -a "$stage/files" "$root"
# Completions of zsh lie elsewhere there.
mkdir -p "$root/usr/share/zsh/site-functions"
mv "$root/usr/share/zsh/vendor-completions/_reward-sidecar" "$root/usr/share/zsh/site-functions/"
rmdir "$root/usr/share/zsh/vendor-completions"
install -D -m 644 "$here/../reward-sidecar.toml" "$root/etc/reward-sidecar.toml"
install -D -m 644 "$here/../systemd/reward-sidecar.service" "$root/usr/lib/systemd/system/reward-sidecar.service"
install -D -m 644 "$here/../../LICENSE" "$root/usr/share/licenses/reward-sidecar/LICENSE"
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
changed=$(LC_ALL=C date -u --date="@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')
# xz: the rpm of RHEL 8 reads it.
rpmbuild --quiet -bb --target "$machine" \
  --define "_topdir $stage/rpm" --define "_rpmdir $stage/rpm" --define "version $version" --define "staged $root" \
  --define "_build_id_links none" --define "use_source_date_epoch_as_buildtime 1" --define "_buildhost localhost" \
  --define "changed $changed" --define "_binary_payload w6.xzdio" \
  --define "clamp_mtime_to_source_date_epoch 1" --define "__os_install_post %{nil}" "$here/reward-sidecar.spec"
cp "$stage/rpm/$machine"/*.rpm "$out"
