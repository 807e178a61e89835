#!/bin/sh
# The test suite on the oldest releases that setup.cfg allows, on the oldest Python there is, and on the newest releases,
# on the newest Python there is (jax 0.11 needs 3.12): tools/oldest_and_newest.sh [OLDEST_PYTHON [NEWEST_PYTHON]]
# Needs uv, which resolves to the lowest direct versions, and pip-audit, which asks PyPI for known vulnerabilities.
set -eu
cd "$(dirname "$0")/.."
there() { # the first of these minor versions that starts
    for minor in "$@"; do "python3.$minor" -c '' 2>/dev/null && echo "python3.$minor" && return; done
    echo python3
}
OLDEST=${1:-$(there 11 12 13 14 15)}
NEWEST=${2:-$(there 15 14 13 12 11)}
status=0
for resolution in lowest-direct highest; do
    [ "$resolution" = highest ] && PYTHON=$NEWEST || PYTHON=$OLDEST
    "$PYTHON" --version
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
