#!/usr/bin/env bash
# The tools that dist.sh needs, at stated versions, into a folder of their own: tools.sh FOLDER
set -euo pipefail
tools=$1
marker=$tools/1
[ ! -e "$marker" ] || exit 0
python3 -m venv "$tools/venv"
# Zig links against an old C library on any machine.
"$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  'ziglang==0.15.2' 'cargo-zigbuild==0.24.1' 'maturin==1.16.0' 'auditwheel==6.8.2' 'twine==7.0.0' 'check-wheel-contents==0.6.3'
cargo install --quiet --locked --root "$tools" cargo-auditable@0.7.7 cargo-cyclonedx@0.5.9
touch "$marker"
