#!/bin/sh
# Makes what bench/stampede needs under target/stampede beside bench/peers' environments (bench/peers/setup.sh vllm, first): one for
# OpenRLHF's serve_rm, and the package that serve_rm is read out of. Its torch is that of bench/peers.
set -eu
cd "$(dirname "$0")/../.."
place=target/stampede
base=$(target/peers/transformers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"${PYTHON:-python3}" -m venv "$place/venv"
# What is found there is not installed once more.
"$place/venv/bin/python" - "$base" <<'PYTHON'
import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "base.pth").write_text(sys.argv[1] + "\n")
PYTHON
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  accelerate==1.15.0 fastapi==0.165.0 uvicorn==0.54.0 pylatexenc==2.11 sympy==1.14.0
# Its wheel is for one Python and one system, though what is read of it is for any.
"$place/venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$place" \
  --python-version 3.11 --implementation cp --abi cp311 --platform manylinux1_x86_64 openrlhf==0.11.2
"$place/venv/bin/python" - "$place" <<'PYTHON'
import pathlib, shutil, sys, zipfile
place = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(place.glob("openrlhf-*.whl"))) as wheel:
    wheel.extractall(place / "wheel")
shutil.rmtree(place / "openrlhf", ignore_errors=True)
next(place.joinpath("wheel").rglob("openrlhf/cli")).parent.parent.rename(place / "openrlhf")
shutil.rmtree(place / "wheel")
PYTHON
