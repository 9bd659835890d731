#!/usr/bin/env bash
# Serves a model over TCP and a Unix socket, and lets stock_client.py judge. Usage: run.sh PYTHON; MODEL is the model
# (default: demo).
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(mktemp -d)
socket=$folder/sidecar.sock
log=$folder/log
target/release/reward-sidecar serve --model "${MODEL:-demo}" --grpc 127.0.0.1:0 --uds "$socket" --admin off 2>"$log" &
server=$!
cleanup() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  rm -rf "$folder"
}
trap cleanup EXIT

# The socket appears when the model is loaded; by then the log names the port that the system picked.
until [ -S "$socket" ] && port=$(grep -oE 'grpc: listening on 127\.0\.0\.1:[0-9]+' "$log" | grep -oE '[0-9]+$'); do
  kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.1
done
"${1:-python3}" tools/grpc_python/stock_client.py --tcp "127.0.0.1:$port" --uds "$socket" || { cat "$log" >&2; exit 1; }
