#!/usr/bin/env bash
# Compiles, lints and links the GPU binary, and starts it, on a machine with neither a GPU nor a CUDA toolkit. It shows
# that everything fits together; what it cannot show is that a GPU computes the right numbers. About 1 GB of downloads
# and some 20 minutes of two cores the first time, nearly all of it in candle's own kernels.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tools/cuda
wheels=$PWD/target/cuda-home
export CUDA_HOME=$wheels/nvidia/cu13
export CUDA_PATH=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH
# Compute capability of the GPU to build for, without the dot. Nobody can be asked here.
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90}
# Apart from target/: another feature set there would have candle built anew at every change from one to the other.
export CARGO_TARGET_DIR=$PWD/target/cuda
stubs=$CUDA_HOME/lib/stubs

step() {
  local start=$SECONDS
  echo "cuda-check: $1"
  shift
  "$@"
  echo "cuda-check: ... $((SECONDS - start)) s"
}

install_toolkit() {
  rm -rf "$wheels"
  # --no-deps: nvcc asks for parts that nothing here uses.
  "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
    --root-user-action ignore --target "$wheels" -r "$here/requirements.txt"
  # A linker looks for libX.so in the one folder that the build scripts tell it; wheels have libX.so.N, NCCL's in
  # another folder.
  ln -s ../../nccl/lib/libnccl.so.2 "$CUDA_HOME/lib"
  local library
  for library in "$CUDA_HOME"/lib/lib*.so.*; do
    ln -s "$(basename "$library")" "${library%%.so.*}.so"
  done
}

# stub NAME SONAME BINDINGS: a library with every function that cudarc's bindings declare, each of which fails with 34,
# CUDA_ERROR_STUB_LIBRARY. The toolkit ships such a one for the driver, which comes with a GPU alone; so do we, and for
# cuBLAS, whose wheel is half a gigabyte.
stub() {
  grep -ohE 'fn cu[A-Za-z0-9_]+\(' "$3" | sort -u | sed -E 's/fn (.*)\(/int \1(void) { return 34; }/' |
    cc -shared -fPIC -w -fno-builtin -x c - -Wl,-soname,"$2" -o "$stubs/lib$1.so"
  ln -sf "lib$1.so" "$stubs/$2"
}

write_stubs() {
  local cudarc
  cudarc=$(cargo metadata --locked --format-version 1 --features cuda | "${PYTHON:-python3}" -c '
import json, os, sys
packages = json.load(sys.stdin)["packages"]
print(next(os.path.dirname(p["manifest_path"]) for p in packages if p["name"] == "cudarc"))')
  mkdir -p "$stubs"
  stub cuda libcuda.so.1 "$cudarc/src/driver/sys/mod.rs"
  stub cublas libcublas.so.13 "$cudarc/src/cublas/sys/mod.rs"
  stub cublasLt libcublasLt.so.13 "$cudarc/src/cublaslt/sys/mod.rs"
}

if [ ! -e "$wheels/ready" ] || [ "$here/requirements.txt" -nt "$wheels/ready" ]; then
  step "install the CUDA compiler" install_toolkit
  touch "$wheels/ready"
fi
write_stubs

step "lint for compute capability $CUDA_COMPUTE_CAP" \
  cargo clippy --release --locked --features cuda --all-targets -- -D warnings
# With an example, as everywhere in the Makefile: so that dependencies have the features that the lints built them with.
step "build and link" cargo build --release --locked --features cuda --bin reward-sidecar --example demo

# Every symbol is looked up now, in NVIDIA's libraries and the stubs.
export LD_LIBRARY_PATH=$CUDA_HOME/lib:$stubs LD_BIND_NOW=1
step "start it" "$CARGO_TARGET_DIR/release/reward-sidecar" --version

# The stub says what a driver says that finds no GPU it can use: that must be a clear error, and no panic.
ask_for_a_gpu() {
  local said code=0
  said=$("$CARGO_TARGET_DIR/release/reward-sidecar" inspect --device cuda --model tests/fixtures/hf/bf16-single 2>&1) ||
    code=$?
  echo "$said"
  if [ "$code" != 2 ] || ! grep -q 'cannot compute on cuda:0: no usable NVIDIA driver' <<<"$said"; then
    echo "cuda-check: exit $code, expected 2 and what is wrong with the driver" >&2
    return 1
  fi
}
step "ask for a GPU that is not there" ask_for_a_gpu
echo "cuda-check: passed in $SECONDS s"
