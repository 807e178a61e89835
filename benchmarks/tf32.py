"""What TF32 would change, without a GPU: python -m benchmarks.tf32 [FILE] [--json]

The golden file is replayed on a CPU with the products that a GPU would be given: convolutions as patches @ kernel, and
the linear layer. `execution.matmul tf32` lets it round their factors to 10 bits. Here each factor is rounded so before
the product, forward and backward; sums are in the precision of the row. What the replay compares with is in double
precision: the second row says what single precision alone changes, the third what TF32 does. Nothing is judged on test
images, which would take most of the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from rich.console import Console
from rich.table import Table

from benchmarks import golden, golden_jax
from benchmarks.golden_file import Golden, read
from fedmi_jax.config import Execution
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.network import gpu_ops, model, ops
from fedmi_jax.network.layers import CONV_LAYERS

FILE = Path(__file__).parent.parent / "tests" / "data" / "golden_iid.npz"
PRODUCTS = (gpu_ops.forward, gpu_ops.backward)
"""The bodies of a layer in which a GPU multiplies matrices."""
Round = Callable[[Array], Array]


def tf32(x: Array) -> Array:
    """To the nearest number with 10 bits after the first one; the exponent has 8 bits, as single precision's."""
    return lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)


def exact(x: Array) -> Array:
    return x


def linear(round_: Round) -> Callable[[Array, Array, Array], Array]:
    """`ops.linear` with the factors of its three products rounded."""

    @jax.custom_vjp
    def product(features: Array, kernel: Array) -> Array:
        return round_(features) @ round_(kernel)

    def forward(features: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return product(features, kernel), (round_(features), round_(kernel))

    def backward(factors: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        features, kernel = factors
        return round_(g) @ kernel.T, features.T @ round_(g)

    product.defvjp(forward, backward)
    return lambda features, kernel, bias: product(features, kernel) + bias


@contextmanager
def as_on_a_gpu(round_: Round) -> Iterator[None]:
    """Within it every layer is what a GPU would be given, the factors of its products rounded so.

    An image's convolution is no product of matrices there (`gpu_ops.FEW`), and a GPU rounds nothing of it.
    """

    def layer(elsewhere: Callable[..., Any], gpu: Callable[..., Any], *given: Array) -> Any:
        if gpu not in PRODUCTS:
            return elsewhere(*given)
        return gpu(*(round_(one) if given[0].shape[-1] > gpu_ops.FEW else one for one in given))

    before = ops.by_platform, model.linear
    ops.by_platform, model.linear = layer, linear(round_)  # type: ignore[assignment]
    jax.clear_caches()
    try:
        yield
    finally:
        ops.by_platform, model.linear = before
        jax.clear_caches()


class Searching(golden_jax.JaxBackend):
    """Trains and searches only."""

    def call_rate(self, models: Any, which: Any, gates: Any, target: np.ndarray) -> np.ndarray:
        return np.zeros(len(target))

    class_accuracy = call_rate

    def accuracy(self, models: Any) -> np.ndarray:
        return np.zeros(len(models["fc_bias"]))


def row(file: Golden, precision: str, round_: Round) -> dict[str, Any]:
    """What the replay says of circuits, and how many weights after round 1 are kept that the file prunes."""
    settings = Execution(precision=precision, client_chunk=1000)  # type: ignore[arg-type]
    with session(settings), as_on_a_gpu(round_):
        whole = golden_jax.backend(settings, file.arrays["test_index"])
        backend = Searching(whole.layout, whole.images, whole.test)
        figures = golden._circuits(file, backend)
        found, expected = golden.trained_and_recorded(file, backend)
    kernels = [name for name in expected if name.endswith("kernel")]
    apart = sum(int(((np.asarray(found[k]) != 0) & (expected[k] == 0)).sum()) for k in kernels)
    kept = sum(int((expected[k] != 0).sum()) for k in kernels)
    told = {name: figures[name] for name in ("masks_differing", "scores")}
    return told | {"weights_differing": apart, "weights_kept": kept}


ROWS = {"float64": ("float64", exact), "float32": ("float32", exact), "TF32": ("float32", tf32)}


def measure(path: Path) -> dict[str, Any]:
    file = read(path)
    masks = [file.arrays[f"masks/{layer}"] for layer in CONV_LAYERS]
    counts = {"channels": sum(mask.size for mask in masks), "open": sum(int(mask.sum()) for mask in masks)}
    return counts | {"rows": {name: row(file, *given) for name, given in ROWS.items()}}


COLUMNS = {
    "masks_differing": "channels that change", "scores": "scores, relative", "weights_differing": "weights that change",
}  # fmt: skip


def show(found: dict[str, Any], console: Console) -> None:
    table = Table("", *COLUMNS.values(), title="golden replay", title_justify="left")
    for name, one in found["rows"].items():
        table.add_row(name, *(f"{one[column]:.3g}" for column in COLUMNS))
    console.print(table)
    kept = next(iter(found["rows"].values()))["weights_kept"]
    console.print(f"of {found['channels']} channels in all masks, {found['open']} of them open; of {kept} weights kept")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tf32", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    try:
        found = measure(options.file)
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(found))
    else:
        show(found, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
