#!/bin/sh
# Makes what bench/peers needs under target/peers: a virtual environment for each peer, and the demo model as they read
# it. Some 12 GB, and half an hour on two cores, most of it llama.cpp's build.
#
#   bench/peers/setup.sh                          everything
#   bench/peers/setup.sh transformers vllm        of the peers only these; transformers is always needed
#
# Python 3.11 or newer. Our own wheel is taken from target/wheels: `make python` first.
set -eu
cd "$(dirname "$0")/../.."
here=bench/peers
place=target/peers
python=${PYTHON:-python3}

mkdir -p "$place"
if [ ! -x "$place/tools/bin/uv" ]; then
  "$python" -m venv "$place/tools"
  # uv, because pip cannot be told to take another torch than a package asks for.
  "$place/tools/bin/pip" install --quiet --disable-pip-version-check 'uv==0.13.9'
fi

environment() {
  name=$1
  shift
  [ -x "$place/$name/bin/python" ] || "$python" -m venv "$place/$name"
  "$place/tools/bin/uv" pip install --quiet --python "$place/$name/bin/python" "$@"
}

environment transformers -r "$here/requirements-transformers.txt"
[ $# -gt 0 ] || set -- vllm llama-cpp
for peer; do
  case $peer in
    transformers) ;;
    vllm) environment vllm -r "$here/requirements-vllm.txt" --override "$here/requirements-vllm-override.txt" ;;
    llama-cpp) environment llama-cpp -r "$here/requirements-llama-cpp.txt" ;;
    *) echo "unknown: $peer; known: transformers, vllm, llama-cpp" >&2; exit 2 ;;
  esac
done

[ -d "$place/demo-model" ] || "$place/transformers/bin/python" "$here/model.py" --output "$place/demo-model"

set -- target/wheels/reward_sidecar-*.whl
[ -e "$1" ] || { echo "no wheel in target/wheels: make python, then this again" >&2; exit 1; }
environment transformers --force-reinstall --no-deps "$1"
