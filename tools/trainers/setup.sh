#!/bin/sh
# Makes target/trainers: an environment with the trainers' own packages, in which `make trainers` runs their code with our
# adapters. Some 6 GB, most of it torch and what it brings along for GPUs, which is not used. Python 3.11 or 3.12.
#
#   tools/trainers/setup.sh [WHEEL]              default: the newest in target/wheels (`make python`)
#
# NeMo-Gym asks for Python 3.13 and has an environment of its own, target/trainers-gym, where python3.13 is installed.
# NeMo-RL and slime are not on PyPI: checkouts of them on PYTHONPATH are found by the tests.
set -eu
cd "$(dirname "$0")/../.."
place=target/trainers
wheel=${1:-$(ls -t target/wheels/reward_sidecar-*.whl 2>/dev/null | head -1)}
[ -e "$wheel" ] || { echo "no wheel in target/wheels: make python, then this again" >&2; exit 1; }

# What others need: by uv where it is installed, which takes seconds.
needed() {
  python=$1
  shift
  if command -v uv >/dev/null; then
    uv pip install --quiet --python "$python" "$@"
  else
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
  fi
}

# Each package in the version that the adapter was read against, without what it asks for: OpenRLHF wants deepspeed and
# flash-attn, AReaL another torch, and none of it is needed for the parts that meet a reward.
alone() {
  python=$1
  shift
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python "$@"
}

"${PYTHON:-python3}" -m venv "$place"
needed "$place/bin/python" -r tools/trainers/requirements.txt
alone "$place/bin/python" trl==1.16.0 openrlhf==0.11.2 verl==0.9.1 areal==1.0.4 ms-swift==4.6.0 google-tunix==0.1.7 \
  skyrl==0.4.0 peft nvidia-pytriton==0.7.0
alone "$place/bin/python" --force-reinstall "$wheel"
# SkyRL's wheel has its environments in a folder beside the packages.
"$place/bin/python" - <<'PYTHON'
import pathlib, sysconfig
packages = pathlib.Path(sysconfig.get_path("purelib"))
(packages / "skyrl_gym.pth").write_text("skyrl-gym\n")
PYTHON

if command -v python3.13 >/dev/null && python3.13 -c '' 2>/dev/null; then
  python3.13 -m venv "$place-gym"
  needed "$place-gym/bin/python" -r tools/trainers/requirements-gym.txt
  alone "$place-gym/bin/python" nemo-gym==0.7.0
  alone "$place-gym/bin/python" --force-reinstall "$wheel"
else
  echo "python3.13 is not there: NeMo-Gym is left out" >&2
fi
