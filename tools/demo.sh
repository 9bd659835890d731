#!/usr/bin/env bash
# Serves the demo model on a Unix socket of its own, streams examples/rollouts.jsonl to it, and shows the rewards.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
socket=$folder/sidecar.sock
cleanup() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  rm -rf "$folder"
}
target/release/reward-sidecar serve --model demo --uds "$socket" --admin off &
server=$!
trap cleanup EXIT

# The socket appears when the model is loaded (the first time, when it has been downloaded).
until [ -S "$socket" ]; do
  kill -0 "$server" 2>/dev/null || { wait "$server"; exit $?; }
  sleep 0.1
done
target/release/examples/demo "unix://$socket" examples/rollouts.jsonl
