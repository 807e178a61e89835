#!/bin/sh
# The test suite on the oldest and on the newest releases that setup.cfg allows: tools/oldest_and_newest.sh [PYTHON]
# Needs uv (pip install uv), which resolves to the lowest direct versions; and pip-audit for the last step.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${1:-python3}
for resolution in lowest-direct highest; do
    place=$(mktemp -d)
    "$PYTHON" -m venv "$place"
    uv pip install --quiet --python "$place/bin/python" --resolution "$resolution" '.[test]'
    "$place/bin/python" -m pip freeze 2>/dev/null | grep -iE '^(jax|flax|optax|chex|numpy|xarray|h5netcdf|filelock)==' || true
    "$place/bin/python" -m pytest && echo "$resolution: passed"
    rm -rf "$place"
done
pip-audit --desc off . && echo "pip-audit: clean"
