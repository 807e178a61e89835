"""What every benchmark prints: a table, the machine, and on request one JSON object as the last line."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import pytorch_reference
from benchmarks.timing import Budget
from fedmi_jax.config import Execution
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError

PACKAGES = ("fedmi-jax", "jax", "jaxlib", "numpy", "torch")


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """With the options that all benchmarks have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--seconds", type=_positive(float), help="begin no turn that would end later than this")
    parser.add_argument("--turns", type=_positive(int), help="at most this many turns of each side")
    parser.add_argument(
        "--no-tf32", dest="tf32", action="store_false", help="on a GPU, full float32 products on both sides"
    )
    return parser


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        if not (value := kind(text)) > 0:
            raise argparse.ArgumentTypeError(f"must be more than 0; got {text}")
        return value

    convert.__name__ = "number"  # what argparse calls a value that is none
    return convert


positive_int = _positive(int)


def budget(options: argparse.Namespace, seconds: float, most: int, least: int = 1) -> Budget:
    """The options' budget, by default this one."""
    most = options.turns or most
    return Budget(options.seconds or seconds, min(least, most), most)


def run(
    options: argparse.Namespace, measure: Callable[[], dict[str, Any]],
    shown: Callable[[dict[str, Any], Console], None] | None = None,
) -> int:  # fmt: skip
    """Measure in a session of the package's and print, by default with `show`; the exit status."""
    compile_anew()
    try:
        with session(Execution(matmul="tf32" if options.tf32 else "float32")):
            tell_torch(options.tf32)
            found = measure() | {"machine": machine(options.tf32), "versions": versions()}
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    (shown or show)(found, Console(highlight=False))
    if options.json:
        print(json.dumps(found))
    return 0


def compile_anew() -> None:
    """Keep no compiled programs, because compile times are part of what is measured."""
    jax.config.update("jax_enable_compilation_cache", False)


def tell_torch(tf32: bool) -> None:
    """The rule of the session for products of float32, where there is a choice: on a GPU."""
    if jax.default_backend() != "cpu" and not pytorch_reference.missing():
        import torch  # pyright: ignore[reportMissingImports]

        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32


def machine(tf32: bool) -> dict[str, Any]:
    """What it ran on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "jax_devices": jax.local_device_count(),
        "processor": _processor(),
        "cores": cores,
        "tf32": tf32 if jax.default_backend() != "cpu" else None,
    }
    if not pytorch_reference.missing():
        import torch  # pyright: ignore[reportMissingImports]

        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        name = torch.cuda.get_device_name() if gpu else "cpu"
        found |= {"torch_threads": torch.get_num_threads(), "torch_device": name}
    return found


def _processor() -> str:
    """Its model name, on Linux; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_device() -> str:
    """PyTorch's name of the kind of device that JAX uses."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def why_no_torch() -> str | None:
    """Why the two sides cannot be compared here; None where they can."""
    if reason := pytorch_reference.missing():
        return reason
    import torch  # pyright: ignore[reportMissingImports]

    if torch_device() == "cuda" and not torch.cuda.is_available():
        return "fedmi_jax runs on a GPU that PyTorch does not see: no comparison"
    return None


def show(found: dict[str, Any], console: Console) -> None:
    """Tables of everything in it."""
    for case in found.get("cases", [found]):
        console.print(_title(case), soft_wrap=True)
        console.print(_times(case))
        if "stages" in case:
            console.print(_stages(case["stages"]))
        for name, value in case.get("facts", {}).items():
            console.print(f"{name}: {_figure(value)}", soft_wrap=True)
    show_machine(found, console)


def show_machine(found: dict[str, Any], console: Console) -> None:
    """What it ran on, and why PyTorch did not."""
    if found["pytorch_missing"]:
        console.print(found["pytorch_missing"], soft_wrap=True)
    for section in ("machine", "versions"):
        line = ", ".join(f"{k} {v}" for k, v in found[section].items() if v is not None)
        console.print(line, style="dim", soft_wrap=True)


def _title(case: dict[str, Any]) -> str:
    if case["ratio"] is None:
        return case["what"]
    low, high = case["ratio_quartiles"]
    return f"{case['what']}: PyTorch / fedmi_jax = {case['ratio']:.2f} (quartiles {low:.2f} - {high:.2f})"


def _times(case: dict[str, Any]) -> Table:
    table = Table()
    for heading in ("seconds", "median", "quartiles", "first call", "of it compiling", "turns"):
        table.add_column(heading, justify="left" if heading == "seconds" else "right")
    for name in ("fedmi_jax", "pytorch"):
        if side := case[name]:
            low, high = side["quartiles_s"]
            compiling = "" if side["compile_s"] is None else f"{side['compile_s']:.1f}"
            row = (f"{side['median_s']:.3f}", f"{low:.3f} - {high:.3f}", f"{side['first_call_s']:.1f}", compiling)
            table.add_row(name, *row, str(case["turns"]))
    return table


def _stages(stages: dict[str, dict[str, Any]]) -> Table:
    table = Table("stage, median seconds", *("fedmi_jax", "PyTorch", "ratio"))
    for stage, row in stages.items():
        table.add_row(stage, *("" if value is None else f"{value:.3f}" for value in row.values()))
    return table


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
