"""python -m tests.torture [--kills N] [--moments N] [--json]: kill -9 a small run again and again; nothing may change.

A real run (two clients, three rounds, every stage), killed N times at random moments in all, and once at each of ten
fixed moments before, during and after writes; resumed after each kill until it is finished. Every result.nc must be the
uninterrupted run's, byte for byte, and the only file left. Status 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def start(scratch: Path, *arguments: object) -> subprocess.Popen:
    """The `fedmi` command on the small run; compiled programs are kept for the next."""
    command = [sys.executable, "-m", "tests.cheap", "--real", *map(str, arguments)]
    own = {"FEDMI_CACHE": str(scratch / "cache"), "JAX_ENABLE_COMPILATION_CACHE": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def begin_or_resume(folder: Path) -> list[str]:
    """What a user would type."""
    if (folder / "unfinished" / "run.json").exists() or (folder / "result.nc").exists():
        return ["resume", str(folder)]
    return ["run", "tiny", "--out", str(folder)]


def finish(scratch: Path, folder: Path, expected: bytes) -> bool:
    """Resume to the end; whether the result is the expected one, and all that is there."""
    run = start(scratch, *begin_or_resume(folder))
    said, _ = run.communicate(timeout=600)
    same = run.returncode == 0 and (folder / "result.nc").read_bytes() == expected
    alone = [path.name for path in folder.iterdir()] == ["result.nc"]
    if not (same and alone):
        print(said.decode()[-2000:], file=sys.stderr)
    return same and alone


def at_random(scratch: Path, kills: int, seconds: float, expected: bytes) -> tuple[int, int, int]:
    """Runs killed after a random time, resumed, killed again; (kills that met a living run, runs, right results)."""
    draw, done, runs, right = random.Random(0), 0, 0, 0
    while done < kills:
        folder, over, well = scratch / f"random-{runs}", False, True
        while not over and done < kills:
            run = start(scratch, *begin_or_resume(folder))
            try:
                run.wait(draw.uniform(0.3, 1) * seconds)
                over, well = True, run.returncode == 0
            except subprocess.TimeoutExpired:
                run.kill()
                done += 1
            run.communicate()
        runs += 1
        right += finish(scratch, folder, expected) and well
    return done, runs, right


def at_fixed_moments(scratch: Path, moments: Sequence[int], expected: bytes) -> int:
    """Runs killed at these moments around their writes; how many results were right."""
    right = 0
    for moment in moments:
        folder = scratch / f"fixed-{moment}"
        run = start(scratch, "--die-at", moment, "run", "tiny", "--out", folder)
        run.communicate(timeout=600)
        right += run.returncode == -9 and finish(scratch, folder, expected)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="at random moments")
    parser.add_argument(
        "--moments",
        type=int,
        default=10,
        help="fixed ones, from the first write to the last; a single one in the middle",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for folder in (scratch / "first", scratch / "whole"):  # the second finds everything compiled
            started = time.monotonic()
            run = start(scratch, "--die-at", 0, "run", "tiny", "--out", folder)
            said, _ = run.communicate(timeout=600)
            seconds = time.monotonic() - started
        expected, moments = (folder / "result.nc").read_bytes(), int(said.split()[-1])
        places = np.linspace(1, moments, options.moments) if options.moments > 1 else [moments / 2]
        fixed = [round(place) for place in places]
        after = at_fixed_moments(scratch, fixed, expected)
        kills, runs, right = at_random(scratch, options.kills, seconds, expected)
    found = {
        "kills at fixed moments": len(fixed), "right after them": after, "moments around writes": moments,
        "kills at random": kills, "runs": runs, "right results": right, "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    print(json.dumps(found, indent=2) if options.json else "\n".join(f"{k}: {v}" for k, v in found.items()))
    return 0 if after == len(fixed) and right == runs else 1


if __name__ == "__main__":
    sys.exit(main())
