#!/bin/sh
# The test suite on the oldest and on the newest releases that setup.cfg allows: tools/oldest_and_newest.sh [PYTHON]
# Needs uv, which resolves to the lowest direct versions, and pip-audit, which asks PyPI for known vulnerabilities.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${1:-python3}
status=0
for resolution in lowest-direct highest; do
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    "$PYTHON" -m venv "$place"
    uv pip install --quiet --python "$place/bin/python" --resolution "$resolution" '.[test]'
    "$place/bin/python" -m pip freeze 2>/dev/null | grep -iE '^(jax|flax|optax|chex|numpy|xarray|h5netcdf|filelock)==' || true
    "$place/bin/python" -m pytest && echo "$resolution: passed" || status=1
    site=$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    pip-audit --desc off --path "$site" && echo "$resolution: pip-audit clean" || status=1
    rm -rf "$place"
done
exit $status
