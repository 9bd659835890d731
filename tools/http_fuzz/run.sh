#!/usr/bin/env bash
# Every route of /openapi.json asked with what its schemas allow, and with what they do not, by schemathesis: no answer is a server
# error, and each is one that the document describes. Usage: run.sh [MODEL]; MAX_EXAMPLES (default 25) for each route.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tools/http_fuzz
place=target/http-fuzz
if [ ! -e "$place/ready" ] || [ "$here/requirements.txt" -nt "$place/ready" ]; then
  "${PYTHON:-python3}" -m venv "$place"
  "$place/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  touch "$place/ready"
fi

port=$("$place/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
target/release/reward-sidecar serve --model "${1:-demo}" --http "127.0.0.1:$port" --admin off --log warn &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true' EXIT

# The port is bound before the model is there: this waits for both.
curl --silent --fail --retry 60 --retry-connrefused --retry-delay 1 --output "$place/openapi.json" "http://127.0.0.1:$port/openapi.json"
"$place/bin/openapi-spec-validator" "$place/openapi.json"
# Not checked: that every request which the schemas allow is answered by a reward. The document cannot say what a model's tokenizer,
# weightings and version allow, nor which of a dialect's fields stand for each other.
# It writes what it has found into a folder where it stands.
(
  cd "$place"
  bin/schemathesis --config-file "../../$here/schemathesis.toml" run "http://127.0.0.1:$port/openapi.json" --checks all \
    --exclude-checks positive_data_acceptance --phases examples,coverage,fuzzing --max-examples "${MAX_EXAMPLES:-25}" --continue-on-failure
)
# It still serves after all that.
curl --silent --show-error --fail --output /dev/null "http://127.0.0.1:$port/ready"
