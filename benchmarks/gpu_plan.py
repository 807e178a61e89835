"""What the package's programs would do on a GPU, from XLA's compiler alone: no GPU is needed.

    python -m benchmarks.gpu_plan [--card h100|rtx4090] [--matmul float32|tf32] [--json] [--only WORD ...]

Per step: kernel launches, MiB moved (operands and results of every kernel: an upper bound), temporary memory, what is
not single precision, and convolutions of the library's in groups, with their windows. Beside it the least bytes of
`benchmarks.roofline`, and predicted times: launches, traffic and arithmetic one after the other, at `LAUNCH_SECONDS`
a launch and `SHARE` of the card's bandwidth and float32 rate. Times are predictions, to be refuted; the rest is what
the card would be told to do. Needs the extra `gpu-plan`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from benchmarks import gpu_compiler, hlo
from benchmarks.gpu_compiler import CARDS, Card

LAUNCH_SECONDS = 2.5e-6
SHARE = 0.8
"""Of the card's peaks that a good kernel reaches."""
CLIENTS = (3, 10, 50)
CIRCUITS, ROWS = 12, 28
"""Of the paper's two-class run: circuits of 3 clients and 2 classes, local and global; models and circuits judged."""


@dataclass(frozen=True)
class Plan:
    """Of one step of a program."""

    what: str
    launches: int
    moved_mib: float
    """Upper bound."""
    least_mib: float | None
    """What it must move (`benchmarks.roofline`); None where nobody has counted."""
    temporary_mib: float
    """Of the whole program, at its peak, beside its arguments and results."""
    gflop: float | None
    reduced_products: int
    """Products of float32 whose factors the card may round to 10 bits (TF32)."""
    other_types: tuple[str, ...]
    """Floating-point types other than float32."""
    grouped: tuple[str, ...]
    """Convolutions in groups: window and number of groups."""
    predicted_ms: float


@dataclass(frozen=True)
class Work:
    """A program to look at."""

    what: str
    lower: Callable[[Any], Any]
    """Of a `gpu_programs.Compiler`."""
    least_bytes: float | None = None
    flop: float = 0.0
    forms: tuple[Form, ...] = ()
    """Of a step that has several, the branches of its loop; else none."""


class Form(NamedTuple):
    """One of the smaller models that a step may work on."""

    what: str
    flop: float


def works() -> list[Work]:
    """A local step, of some numbers of clients; a discovery step on the models of every width, an evaluation group, the
    average."""
    from benchmarks import gpu_programs, roofline
    from fedmi_jax.circuits.narrowing import WIDTHS, menu

    model = roofline.layers(gpu_programs.IMAGE, gpu_programs.CHANNELS, gpu_programs.CLASSES)
    moved = roofline.training_bytes(model, gpu_programs.BATCH)
    flop, images = roofline.training_flops(model), gpu_programs.BATCH
    training = [
        Work(
            f"local step, {n} clients x {images} images", lambda c, n=n: c.train(n), n * images * moved,
            n * images * flop,
        )
        for n in CLIENTS
    ]  # fmt: skip
    forward = 2 * sum(layer.products for layer in model)
    searched, judged = CIRCUITS * gpu_programs.DISCOVERY_BATCH, ROWS * gpu_programs.FORWARD
    seen = 4 * sum(layer.inputs + layer.outputs for layer in model)

    def searching(channels: tuple[int, ...]) -> Form:
        """Forward, and back to the gates."""
        small = roofline.layers(gpu_programs.IMAGE, channels, gpu_programs.CLASSES)
        products = sum(layer.products for layer in small) + sum(layer.products for layer in small[1:])
        return Form(f"{'-'.join(map(str, channels))} channels", 2 * searched * products)

    return [
        *training,
        Work(
            f"discovery step, {CIRCUITS} circuits x {gpu_programs.DISCOVERY_BATCH} images",
            lambda c: c.discover(CIRCUITS), forms=tuple(map(searching, menu(gpu_programs.CHANNELS, WIDTHS))),
        ),
        Work(
            f"evaluation group, {ROWS} models x {gpu_programs.FORWARD} images", lambda c: c.evaluate(ROWS),
            judged * seen, judged * forward,
        ),
        Work("average of 50 clients", lambda c: c.average(50), 51 * 4 * sum(layer.weights for layer in model)),
    ]  # fmt: skip


def plan(work: Work, compiler: Any, card: Card) -> list[Plan]:
    """Compile it and count, once for every form."""
    compiled = work.lower(compiler).compile()
    return counted(work, compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes, card)


def counted(work: Work, text: str, temporary: float, card: Card) -> list[Plan]:
    """The plans of a module with this text. A step is one trip of the loop that moves most; without loops it is all.
    Of work with several forms that loop chooses among branches, and a step is one trip of a branch's loop."""
    computations, entry = hlo.parse(text)
    step = busiest(hlo.body(computations, entry))
    told = partial(_plan, computations, temporary, card)
    if not work.forms:
        return [told(work, step)]
    branches = [busiest(inner) for inner in step.inner if inner.label == "branch"]
    each = [replace(work, what=f"{work.what}, {form.what}", flop=form.flop) for form in work.forms]
    return [told(one, branch) for one, branch in zip(each, branches, strict=True)]


def _plan(computations: hlo.Computations, temporary: float, card: Card, work: Work, step: hlo.Body) -> Plan:
    grouped = [c for c in hlo.convolutions(computations) if c.groups > 1]
    return Plan(
        work.what,
        step.all_launches,
        step.all_moved / 2**20,
        None if work.least_bytes is None else work.least_bytes / 2**20,
        temporary / 2**20,
        work.flop / 1e9 or None,
        len(hlo.reduced_products(computations)),
        tuple(sorted(hlo.other_types(computations))),
        tuple(f"{c.window} in {c.groups} groups" for c in grouped),
        1e3 * seconds(step.all_launches, step.all_moved, work.flop, card),
    )


def busiest(body: hlo.Body) -> hlo.Body:
    """Of the entry's loops the one that moves most, all its trips together; the entry where it has none."""
    loops = [inner for inner in body.inner if inner.label == "loop"]
    return max(loops, key=lambda inner: inner.trips * inner.all_moved) if loops else body


def seconds(launches: int, moved: float, flop: float, card: Card) -> float:
    """Predicted, for kernels one after the other: arithmetic and traffic of one kernel hide each other at best."""
    return launches * LAUNCH_SECONDS + max(moved / card.bandwidth, flop / card.flops) / SHARE


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--card", choices=tuple(CARDS), default="h100")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--matmul", choices=("float32", "tf32"), default="float32", help="as execution.matmul")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only what is named with one of these, as 'average'")
    options = parser.parse_args(arguments)
    if reason := gpu_compiler.why_absent():
        print(reason, file=sys.stderr)
        return 2
    gpu_compiler.tell_xla()
    plans = compiled_plans(CARDS[options.card], options.matmul, options.only)
    if options.json:
        print(json.dumps({"card": CARDS[options.card].name, "plans": [asdict(plan) for plan in plans]}))
    return 0


def compiled_plans(card: Card, matmul: str = "float32", only: list[str] | None = None) -> list[Plan]:
    """Of everything, each printed as soon as it is known; `tell_xla` comes before."""
    import jax

    from benchmarks import gpu_programs

    jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_default_matmul_precision", {"float32": "highest", "tf32": "default"}[matmul])
    compiler = gpu_programs.compiler(gpu_compiler.device(card))
    plans: list[Plan] = []
    print(f"{card.name}, compiled for without one; products in {matmul}; jax {jax.__version__}")
    print(" | ".join(HEADINGS))
    for work in works():
        if only is None or any(word in work.what for word in only):
            plans += (found := plan(work, compiler, card))
            print("\n".join(map(line, found)), flush=True)
    return plans


HEADINGS = (
    "what", "launches", "MiB moved, at most", "MiB, at least", "temporary MiB", "GFLOP", "predicted ms",
    "products in TF32", "other types", "convolutions in groups",
)  # fmt: skip


def line(plan: Plan) -> str:
    least = "-" if plan.least_mib is None else f"{plan.least_mib:.0f}"
    flop = "-" if plan.gflop is None else f"{plan.gflop:.1f}"
    cells = (
        plan.what, plan.launches, f"{plan.moved_mib:.0f}", least, f"{plan.temporary_mib:.0f}", flop,
        f"{plan.predicted_ms:.3f}", plan.reduced_products, ", ".join(plan.other_types) or "none",
        ", ".join(plan.grouped) or "none",
    )  # fmt: skip
    return " | ".join(map(str, cells))


if __name__ == "__main__":
    sys.exit(main())
