#!/usr/bin/env bash
# Gets the tools that check.py drives (rotel from PyPI; Prometheus from PATH or from Debian, unpacked without root),
# keeps them under target/, and runs it: tools/observability/run.sh [MODEL]
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tools/observability
tools=target/observability
mkdir -p "$tools"
if [ ! -e "$tools/venv/ready" ] || [ "$here/requirements.txt" -nt "$tools/venv/ready" ]; then
  "${PYTHON:-python3}" -m venv "$tools/venv"
  "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  touch "$tools/venv/ready"
fi

prometheus=$(command -v prometheus || true)
if [ -z "$prometheus" ]; then
  prometheus=$tools/prometheus/usr/bin/prometheus
  if [ ! -x "$prometheus" ]; then
    rm -f "$tools"/prometheus_*.deb
    (cd "$tools" && apt-get download prometheus)
    dpkg-deb -x "$tools"/prometheus_*.deb "$tools/prometheus"
  fi
fi

exec "$tools/venv/bin/python" "$here/check.py" --binary target/release/reward-sidecar --model "${1:-demo}" \
  --prometheus "$prometheus"
