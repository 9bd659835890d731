#!/bin/sh
# Every target one after the other, for some seconds each, beginning with the tests' fixtures. Needs cargo-fuzz:
#   fuzz/run.sh [SECONDS]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
# Lets a stable compiler build with the address sanitizer.
export RUSTC_BOOTSTRAP=1

target() {
    name=$1
    shift
    mkdir -p "fuzz/corpus/$name"
    cargo fuzz run "$name" "fuzz/corpus/$name" "$@" -- \
        -max_total_time="$seconds" -max_len=400000 -rss_limit_mb=2048 -malloc_limit_mb=512 -timeout=20 -print_final_stats=1
}

fixtures=tests/fixtures
# Seeds of several files each are put together here, out of the fixtures.
seeds=fuzz/corpus/.seeds
mkdir -p "$seeds/torch_dist" "$seeds/quantized"
cat "$fixtures/nemo/nemotron-dist/model_weights/.metadata" "$fixtures/nemo/nemotron-dist/model_weights/__0_0.distcp" \
    > "$seeds/torch_dist/nemotron"
for folder in "$fixtures"/quantized/*; do
    { cat "$folder/config.json"; printf '\000'; cat "$folder/model.safetensors"; } > "$seeds/quantized/${folder##*/}"
done
target rollout_row fuzz/seeds/rollout_row
target safetensors "$fixtures/hf"
target pytorch "$fixtures/bin"
target pickle fuzz/seeds/pickle
target nemo_tar "$fixtures/nemo"
target nemo_folder fuzz/seeds/nemo_folder
target torch_dist "$seeds/torch_dist"
target quantized "$seeds/quantized"
target gguf "$fixtures/gguf"
target sentencepiece "$fixtures/tokenizer"
target adapter_config "$fixtures/adapter"
for name in lane_rollout lane_reply lane_survives lane_handshake lane_session; do
    target "$name" "fuzz/seeds/$name"
done
