#!/bin/sh
# Install the suite of the folder $1 and all its extras, with the exact versions of its lock files, into
# its .venv. Needs root on Debian or Ubuntu with Python 3.11, 3.12 or 3.13. Used by Dockerfile and
# apptainer.def.
# EXTRAS="language segmentation corruptions harness" and TORCH_INDEX are those of `make setup`.
set -eu
suite=$1
packages="make git g++ ca-certificates"   # g++ builds AdamCPR's CPU kernel
python3 -m venv --help >/dev/null 2>&1 && python3 -c "import ensurepip" || packages="$packages python3 python3-venv"
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
rm -rf /var/lib/apt/lists/*
git config --system --add safe.directory '*'   # a clone that is bound into the container is another user's
make -C "$suite" setup EXTRAS="${EXTRAS-language segmentation corruptions harness}" TORCH_INDEX="${TORCH_INDEX-}"
rm -rf /root/.cache/pip
"$suite/.venv/bin/python" -c "import cpr, torch; print('torch', torch.__version__)"
