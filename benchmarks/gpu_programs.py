"""The package's programs, compiled for a GPU from the shapes of their arguments alone.

Axes: M models side by side, C circuits, n rows of an evaluation, T steps, B images of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax import aggregation
from fedmi_jax.aggregation.base import NO_STATE, Clients
from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.config import Aggregation, Discovery, Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.federation import programs
from fedmi_jax.federation.programs import Masked, judging
from fedmi_jax.network import model
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers

BATCH, STEPS, CLASSES, IMAGE, CHANNELS = 256, 50, 10, (28, 28, 1), (32, 64, 128)
DISCOVERY_BATCH, DISCOVERY_STEPS, FORWARD = 144, 200, 500
"""Images of a class in a step of the two-class preset, its steps, images of an evaluation's forward pass."""
TRAIN, TEST = 60_000, 10_000


@dataclass(frozen=True)
class Compiler:
    """Compiles for one device that need not be there."""

    layout: Layout

    def array(self, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self.layout.mesh, P()))

    def models(self, count: int) -> dict[str, Any]:
        """So many models of the paper's network, (M, ...)."""
        one = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGE, CHANNELS, CLASSES))
        return {name: self.array((count, *leaf.shape), leaf.dtype) for name, leaf in one.items()}

    def images(self, count: int) -> Images:
        pixels, labels = self.array((count, *IMAGE), jnp.uint8), self.array((count,), jnp.int32)
        return Images(pixels, labels, self.array((1,)), self.array((1,)))

    def plan(self, count: int, steps: int, batch: int) -> Any:
        shape = (count, steps, batch)
        return Plan(*(self.array(of, jnp.int32) for of in (shape, shape[:2], shape[:1])))  # type: ignore[arg-type]

    def train(self, models: int, batch: int = BATCH) -> Any:
        """Local training of the paper's clients, 99.5 % sparse."""
        keep, counts = self.array((models, STEPS, 4), jnp.int32), self.array((models, CLASSES), jnp.int32)
        which, plan = self.array((models,), jnp.int32), self.plan(models, STEPS, batch)
        return programs.train_models.lower(
            self.models(1), self.images(TRAIN), which, plan, keep, counts,
            layout=self.layout, local=Local(), sparse=Sparsity(target=0.995), method=_method(),
        )  # fmt: skip

    def discover(self, circuits: int) -> Any:
        """The paper's search for circuits."""
        which, plan = (
            self.array((circuits,), jnp.int32),
            self.plan(circuits, DISCOVERY_STEPS, DISCOVERY_BATCH),
        )
        return programs.discover_circuits.lower(
            self.models(circuits), self.images(TRAIN), which, plan, ZERO, layout=self.layout, settings=Discovery()
        )

    def evaluate(self, rows: int) -> Any:
        """Masked models on the test set, in groups."""
        gates = {layer: self.array((rows, width)) for layer, width in zip(_layers(), CHANNELS, strict=True)}
        groups = (TEST // FORWARD, FORWARD)
        by_class = (CLASSES, TEST // FORWARD // 8, FORWARD)
        test = EvaluationSet(
            self.images(TEST), self.array(groups, jnp.int32), self.array(groups, jnp.bool_),
            self.array(by_class, jnp.int32), self.array(by_class, jnp.bool_),
        )  # fmt: skip
        masked = Masked(self.array((rows,), jnp.int32), gates, ZERO, self.array((rows,), jnp.int32))
        return judging._judged.lower(
            self.models(rows), test, masked, self.array((rows,), jnp.bool_), layout=self.layout
        )

    def average(self, models: int) -> Any:
        """The server's step of plain federated averaging."""
        of_each = (self.array((1, models), jnp.int32) for _ in range(3))
        samples, steps, numbers = of_each
        clients = Clients(
            self.models(models), samples, self.array((1, models, CLASSES), jnp.int32), steps, numbers
        )  # fmt: skip
        return programs.aggregate.lower(NO_STATE, self.models(1), clients, layout=self.layout, method=_method())


def compiler(device: Any) -> Compiler:
    """For a device of JAX's, everything side by side."""
    mesh = Mesh(np.array([device]), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return Compiler(Layout(mesh=mesh, shard="clients", chunk=10_000, micro_batch=0, forward_batch=FORWARD))


def _method() -> Any:
    return aggregation.chosen(Aggregation(), Local())


def _layers() -> tuple[str, ...]:
    return conv_layers([f"conv{i + 1}_kernel" for i in range(len(CHANNELS))])
