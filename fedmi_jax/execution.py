"""How leading axes are run: side by side, one after the other, over devices. Nobody else knows.

Axes: M models (seeds x clients), C circuits, D devices, T steps, B images of a batch.

On a CPU, JAX's own devices are cores: with one device per core every operation of a step is parallel, not only its
matmuls. Training splits each batch over the devices and adds the gradients up; circuits are dealt out whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.circuits import discovery, evaluation
from fedmi_jax.circuits.evaluation import TestSet
from fedmi_jax.config import Discovery, Evaluation, Execution, Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.local import Images, train
from fedmi_jax.model import Gates, Params

AXIS = "devices"


@dataclass(frozen=True)
class Layout:
    """A resolved `config.Execution`: what to do on the devices at hand. Hashable, a static argument of the programs."""

    mesh: Mesh
    one_by_one: bool
    """True: one compiled loop over models and circuits. False: all of them side by side (vmap)."""
    micro_batch: int
    """Images per piece of a training or discovery batch on one device; 0: the whole."""
    forward_batch: int
    """Images per forward pass in evaluation, on one device."""

    @property
    def devices(self) -> int:
        return self.mesh.size

    def padded(self, batch: int, devices: int) -> int:
        """Smallest width not under `batch` that splits evenly over so many devices and then into pieces."""
        share = -(-batch // devices)
        return devices * self._pieces(share) * -(-share // self._pieces(share))

    def piece(self, width: int) -> int:
        """Images per piece of a batch of this width on one device."""
        return width // self._pieces(width)

    def _pieces(self, share: int) -> int:
        return -(-share // (self.micro_batch or share))


def use_all_cores() -> None:
    """Let JAX's CPU backend have one device per core.

    Does nothing once JAX has started, or where XLA_FLAGS or JAX_NUM_CPU_DEVICES already say how many.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # JAX has started: its devices are what they are
            jax.config.update("jax_num_cpu_devices", cores or 1)


@contextlib.contextmanager
def session(settings: Execution) -> Iterator[None]:
    """Within it JAX computes in the precision of these settings, on all cores if it has not started yet."""
    use_all_cores()
    with jax.enable_x64(settings.precision == "float64"):
        yield


def layout(settings: Execution, judged: Evaluation | None = None) -> Layout:
    """What these settings mean on the devices at hand."""
    cpu = jax.default_backend() == "cpu"
    mesh = jax.make_mesh((jax.local_device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return Layout(
        mesh=mesh,
        one_by_one=settings.lift == "map" or (settings.lift == "auto" and cpu),
        micro_batch=settings.micro_batch or (16 if cpu else 0),
        forward_batch=(judged.batch_size if judged else 0) or (50 if cpu else 500),
    )


def replicate(tree: Any, how: Layout) -> Any:
    """The arrays on every device, once: an input that moves from one device to all would be copied, and compiled for,
    a second time."""
    return jax.device_put(tree, NamedSharding(how.mesh, P()))


def lift(fn: Callable[..., Any], how: Layout, *stacked: Any) -> Any:
    """fn over the leading axis of every argument, in the way the layout says."""
    if how.one_by_one:
        return jax.lax.map(partial(_spread, fn), stacked)
    return jax.vmap(fn)(*stacked)


def _spread(fn: Callable[..., Any], arguments: tuple) -> Any:
    return fn(*arguments)


def deal(fn: Callable[..., Any], how: Layout, stacked: tuple, shared: tuple) -> Any:
    """fn(*one of stacked, *shared) over the leading axis of `stacked`, dealt out over the devices."""
    length = jax.tree.leaves(stacked)[0].shape[0]
    surplus = -length % how.devices  # the last one is done again so that every device has as many
    padded = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], surplus, 0)]), stacked)

    def on_device(stacked: tuple, shared: tuple) -> Any:
        return lift(lambda *one: fn(*one, *shared), how, *stacked)

    run = jax.shard_map(on_device, mesh=how.mesh, in_specs=(P(AXIS), P()), out_specs=P(AXIS), check_vma=False)
    return jax.tree.map(lambda a: a[:length], run(padded, shared))


def pick(models: Params, which: Array) -> Params:
    """One model of a stack."""
    return {name: leaf[which] for name, leaf in models.items()}


@partial(jax.jit, static_argnames=("how", "local", "sparse"))
def train_models(
    params: Params, images: Images, plan: Plan, keep: Array, class_counts: Array,
    *, how: Layout, local: Local, sparse: Sparsity,
) -> tuple[Params, Array]:  # fmt: skip
    """`local.train` of M models in one call, each batch split over the devices.

    Args: params with leading axis M (every client's start); plan (M, T, B); keep (M, T, L); class_counts (M, Y).
    Returns the trained params (M, ...) and losses (M, T).
    """
    chex.assert_equal_shape_prefix([plan.indices, plan.weight, keep], 2)
    chex.assert_tree_shape_prefix((params, plan.steps, class_counts), plan.indices.shape[:1])
    piece = how.piece(plan.indices.shape[-1] // how.devices)
    one = partial(train, local=local, sparse=sparse, micro_batch=piece, axis=AXIS)

    def on_device(images: Images, params: Params, plan: Plan, keep: Array, class_counts: Array) -> Any:
        return lift(lambda start, *own: one(start, images, *own), how, params, plan, keep, class_counts)

    split = Plan(P(None, None, AXIS), P(None, None, AXIS), P())  # type: ignore[arg-type]
    specs = (P(), P(), split, P(), P())
    run = jax.shard_map(on_device, mesh=how.mesh, in_specs=specs, out_specs=P(), check_vma=False)
    return run(images, params, plan, keep, class_counts)


@partial(jax.jit, static_argnames=("how", "settings"))
def discover_circuits(
    models: Params, images: Images, which: Array, plan: Plan, fill: Gates | None,
    *, how: Layout, settings: Discovery,
) -> Gates:  # fmt: skip
    """`discovery.discover` of C circuits in one call, dealt out over the devices.

    Args: models with leading axis M; which (C,), each circuit's model; plan (C, T, B); fill (C, O_l) or None.
    Returns the final scores {"conv1": (C, O_1), ...}.
    """
    chex.assert_tree_shape_prefix((plan, fill), which.shape)
    piece = how.piece(plan.indices.shape[-1])

    def one(which: Array, plan: Plan, fill: Gates | None, models: Params, images: Images) -> Gates:
        return discovery.discover(
            pick(models, which), images, plan, fill, settings=settings, micro_batch=piece, narrowing=how.one_by_one
        )

    return deal(one, how, (which, plan, fill), (models, images))


@partial(jax.jit, static_argnames=("how", "measure"))
def measure_circuits(
    models: Params, test: TestSet, which: Array, gates: Gates, fill: Gates | None, target: Array,
    *, how: Layout, measure: Callable[..., Any],
) -> Any:  # fmt: skip
    """`measure` (`evaluation.performance` or `evaluation.class_accuracy`) of C masked models in one call.

    Args: models with leading axis M; which (C,); gates (C, O_l); fill (C, O_l) or None; target (C,).
    """

    def one(which: Array, gates: Gates, fill: Gates | None, target: Array, models: Params, test: TestSet) -> Any:
        return measure(pick(models, which), gates, fill, target, test, narrowing=how.one_by_one)

    return deal(one, how, (which, gates, fill, target), (models, test))


@partial(jax.jit, static_argnames=("how",))
def measure_models(models: Params, test: TestSet, *, how: Layout) -> tuple[Array, Array]:
    """`evaluation.model_accuracy` of M models in one call: (M,), (M, Y)."""
    return deal(evaluation.model_accuracy, how, (models,), (test,))


@partial(jax.jit, static_argnames=("how",))
def mean_outputs(models: Params, images: Images, which: Array, index: Array, valid: Array, *, how: Layout) -> Gates:
    """`evaluation.mean_outputs` of F pairs of a model and a client's data: which (F,), index and valid (F, G, B)."""

    def one(which: Array, index: Array, valid: Array, models: Params, images: Images) -> Gates:
        return evaluation.mean_outputs(pick(models, which), images, index, valid)

    return deal(one, how, (which, index, valid), (models, images))


@jax.jit
def empty_masks(models: Params, which: Array, fill: Gates | None, target: Array) -> tuple[Array, Array]:
    """`evaluation.empty_mask` of C circuits: (C,), (C,)."""
    return jax.vmap(lambda w, f, t: evaluation.empty_mask(pick(models, w), f, t))(which, fill, target)
