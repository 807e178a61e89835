"""All that is to be measured on a GPU, in one command that tells even when it is cut off.

    python -m benchmarks.gpu OUT [--minutes 8] [--dry] [--only NAME ...]

The steps run in this order, each in a process of its own; what it says goes to OUT/NAME.txt while it runs, and a line
about it to OUT/steps.jsonl as soon as it ends: status, seconds, and the last JSON object that it printed. A step that
fails stops nobody. No step begins after the minutes are over, and one that is still running then is ended. --dry: tiny
sizes, on whatever device there is. A checkout and PYTHONPATH are enough; docs/gpu.md says what to bring.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
GOLDEN = "tests/data/golden_iid.npz"
AT_LEAST = 5
"""Seconds that must be left for a step to begin."""


@dataclass(frozen=True)
class Step:
    """A command, and the same with tiny sizes."""

    name: str
    command: tuple[str, ...]
    """After `python -m`."""
    dry: tuple[str, ...]
    needs: str | None = None
    """A package without which there is nothing to do."""


def own(name: str) -> Step:
    command = ("benchmarks.gpu_steps", name)
    return Step(name, command, (*command, "--dry"))


def beside_pytorch(name: str, *tiny: str) -> list[Step]:
    """A benchmark with full products and with TF32."""
    command, few = (f"benchmarks.{name}", "--json"), ("--turns", "1", "--seconds", "1", *tiny)
    return [
        Step(name, (*command, "--no-tf32"), (*command, "--no-tf32", *few)),
        Step(f"{name}-tf32", command, (*command, *few)),
    ]


TESTS = tuple(f"tests/test_{name}.py" for name in ("ops", "gpu_ops", "gates", "radix", "pruning"))
RUN = ("fedmi_jax.cli.main", "run")
STEPS = [
    own("device"),
    own("ties"),
    Step(
        "tests", ("pytest", "-n0", "-q", "-x", *TESTS), ("pytest", "-n0", "-q", "tests/test_gpu_ops.py", "-k", "pool"),
        needs="pytest",
    ),
    Step("golden", ("benchmarks.golden", GOLDEN, "--json"), ("benchmarks.golden", "--help")),
    own("agrees"),
    Step(
        "determinism", (*RUN, "two-class", "--check-determinism"),
        (
            *RUN, "two-class", "--check-determinism", "--data.images-per-client", "32", "--local.epochs", "1",
            "--discovery.steps", "20", "--evaluation.images-per-class", "5",
        ),
    ),
    *beside_pytorch("local_training", "--clients", "2", "--steps", "1"),
    *beside_pytorch(
        "discovery", "--clients", "2", "--classes", "1", "--circuits", "2", "--steps", "1", "--images", "32"
    ),
    *beside_pytorch("end_to_end", "--images", "32"),
    own("clients"),
    own("seeds"),
    own("iid"),
    own("profile"),
]  # fmt: skip
"""Of the first that is about right or wrong, then of speed: a cut-off run has said what matters most."""


def run(steps: list[Step], out: Path, minutes: float, dry: bool) -> int:
    """0 where every step that could be done ended well."""
    out.mkdir(parents=True, exist_ok=True)
    end, failed = time.monotonic() + 60 * minutes, 0
    with (out / "steps.jsonl").open("a", encoding="utf-8") as log:
        for step in steps:
            said = do(step, out, end, dry)
            failed += said["status"] not in ("done", "skipped")
            print(f"{step.name}: {said['status']}, {said['seconds']:.0f} s", flush=True)
            log.write(json.dumps(said) + "\n")
            log.flush()
    return 1 if failed else 0


def do(step: Step, out: Path, end: float, dry: bool) -> dict[str, Any]:
    """What is written about a step."""
    about: dict[str, Any] = {"step": step.name, "dry": dry, "seconds": 0.0}
    if step.needs and importlib.util.find_spec(step.needs) is None:
        return {**about, "status": "skipped", "why": f"{step.needs} is not installed"}
    if end - time.monotonic() < AT_LEAST:
        return {**about, "status": "not begun", "why": "the minutes are over"}
    file, begin = out / f"{step.name}.txt", time.monotonic()
    with file.open("w", encoding="utf-8") as printed:
        status = _wait(step.dry if dry else step.command, printed, end)
    lines = file.read_text("utf-8", errors="replace").splitlines()
    return {
        **about, "status": {0: "done", None: "cut off"}.get(status, "failed"),
        "exit": status, "seconds": time.monotonic() - begin, "found": last_json(lines), "end": lines[-3:],
    }  # fmt: skip


def _wait(command: tuple[str, ...], printed: IO[str], end: float) -> int | None:
    """The command's exit status; None where it had to be ended."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=printed, stderr=subprocess.STDOUT)
    try:
        return process.wait(timeout=max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # who can, says how far he came
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def last_json(lines: list[str]) -> Any:
    """The last JSON object in the text, on one line or, at its end, on several; None where there is none."""
    for line in reversed(lines):
        if line.startswith("{") and line.endswith("}"):
            return json.loads(line)
    begin = max((i for i, line in enumerate(lines) if line == "{"), default=None)
    try:
        return None if begin is None else json.loads("\n".join(lines[begin:]))
    except ValueError:
        return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a folder; it is made where there is none")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], metavar="NAME")
    options = parser.parse_args(arguments)
    steps = [step for step in STEPS if not options.only or step.name in options.only]
    return run(steps, options.out, options.minutes, options.dry)


if __name__ == "__main__":
    sys.exit(main())
