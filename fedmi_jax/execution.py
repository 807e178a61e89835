"""How leading axes are run: side by side, one after the other, over devices and processes. Nobody else knows.

Axes: M models (seeds x clients) or C circuits, D devices, B images of a batch.

On a CPU, JAX's own devices are cores: with one device per core every operation of a step is parallel, not only its
matmuls. A few clients there share every batch out among the cores, which keeps all of them busy to the end; many
clients, and GPUs, are dealt whole clients, which asks for no exchange until the average.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.config import ConfigError, Evaluation, Execution, FedmiError
from fedmi_jax.data import cache

AXIS = "devices"


@dataclass(frozen=True)
class Layout:
    """A resolved `config.Execution`: what to do on the devices at hand. Hashable, a static argument of the programs."""

    mesh: Mesh
    shard: str
    """What the devices share out in training: "clients", or the images of every "batch"."""
    chunk: int
    """Models or circuits side by side (vmap) on one device; 1: one after the other in one compiled loop."""
    micro_batch: int
    """Images per piece of a training or discovery batch on one device; 0: the whole."""
    forward_batch: int
    """Images per forward pass in evaluation, on one device."""

    @property
    def devices(self) -> int:
        return self.mesh.size

    @property
    def batch_devices(self) -> int:
        """Over how many devices a training batch is split."""
        return self.devices if self.shard == "batch" else 1

    @property
    def one_by_one(self) -> bool:
        return self.chunk == 1

    @property
    def narrowing(self) -> bool:
        """Look, in each circuit, for what need not be computed: loops that end early pay on a CPU."""
        return self.one_by_one and self.mesh.devices.flat[0].platform == "cpu"

    @property
    def everywhere(self) -> NamedSharding:
        """The same array on every device."""
        return NamedSharding(self.mesh, P())

    def padded(self, batch: int, devices: int) -> int:
        """Smallest width not under `batch` that splits evenly over so many devices and then into pieces."""
        share = -(-batch // devices)
        return devices * self._pieces(share) * -(-share // self._pieces(share))

    def piece(self, width: int) -> int:
        """Images per piece of a batch of this width on one device."""
        return width // self._pieces(width)

    def _pieces(self, share: int) -> int:
        return -(-share // (self.micro_batch or share))


def before_start() -> None:
    """What JAX must be told before it starts; to be called by whoever may be the first to start it."""
    use_all_cores()
    allow_pauses()


def use_all_cores() -> None:
    """Let JAX's CPU backend have one device per core.

    Does nothing once JAX has started, or where XLA_FLAGS or JAX's setting jax_num_cpu_devices already say how many.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not said and jax.config.values["jax_num_cpu_devices"] < 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # JAX has started: its devices are what they are
            jax.config.update("jax_num_cpu_devices", cores or 1)


def allow_pauses() -> None:
    """Let a run that was stopped for a while (Ctrl-Z) go on: XLA's CPU backend otherwise ends a process whose devices
    have not met for 40 seconds. Has no effect once JAX has started, and XLA_FLAGS that say how long are left alone."""
    said, flag = os.environ.get("XLA_FLAGS", ""), "xla_cpu_collective_call_terminate_timeout_seconds"
    if flag not in said:
        os.environ["XLA_FLAGS"] = f"{said} --{flag}={PAUSE}".strip()


PAUSE = 7 * 24 * 3600
"""Seconds."""


def keep_compiled() -> None:
    """Let JAX keep compiled programs on disk, so that only the first run waits for the compiler.

    The folder is $FEDMI_CACHE/programs, or ~/.cache/fedmi_jax/programs. Does nothing where JAX has been told a folder
    of its own (JAX_COMPILATION_CACHE_DIR) or to keep nothing (JAX_ENABLE_COMPILATION_CACHE=0).
    """
    said: Any = jax.config  # its values are attributes that are not declared
    if said.jax_compilation_cache_dir is None and said.jax_enable_compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache.root() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextlib.contextmanager
def session(settings: Execution) -> Iterator[None]:
    """Within it JAX computes in the precision of these settings, on all cores if it has not started yet.

    Raises FedmiError that says what to do when memory runs out.
    """
    before_start()
    keep_compiled()
    try:
        with jax.enable_x64(settings.precision == "float64"):
            yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in FULL):
            raise _out_of_memory(settings, str(error)) from None
        raise


FULL = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
"""What XLA says when memory runs out; its error has no type of its own."""


def _out_of_memory(settings: Execution, said: str) -> FedmiError:
    chunk, piece = settings.client_chunk, settings.micro_batch
    if chunk == 1 or (chunk == "auto" and jax.default_backend() == "cpu"):
        name, now, smaller = "micro_batch", piece or "the whole batch", max(1, (piece or 256) // 2)
    else:
        name, now, smaller = "client_chunk", chunk, max(1, chunk // 2) if isinstance(chunk, int) else 1
    advice = f"lower execution.{name} (now {now}), as in `fedmi resume DIR --{name.replace('_', '-')} {smaller}`"
    return FedmiError(f"memory ran out ({' '.join(said.split())[:100] or 'of the host'}); {advice}")


def layout(settings: Execution, judged: Evaluation | None = None, models: int = 1, model_bytes: int = 0) -> Layout:
    """What these settings mean on the devices at hand.

    Args: models: how many are trained in a round; model_bytes: what training one of them takes beside others.
    Raises ConfigError where more devices are asked for than there are.
    """
    mesh, cpu = _mesh(settings.devices), jax.default_backend() == "cpu"
    shard, chunk = settings.shard, settings.client_chunk
    if shard == "auto":
        shared = cpu and jax.process_count() == 1 and models < MANY * mesh.size
        shard = "batch" if shared else "clients"
    if chunk == "auto":
        chunk = 1 if cpu else max(1, _free_memory() // max(model_bytes, 1))
    return Layout(
        mesh=mesh,
        shard=shard,
        chunk=chunk,
        micro_batch=settings.micro_batch or (16 if cpu else 0),
        forward_batch=(judged.batch_size if judged else 0) or (50 if cpu else 500),
    )


MANY = 8
"""Clients per core from which on a CPU whole clients are dealt out: the last ones then leave few cores idle."""


def _mesh(wanted: int | None) -> Mesh:
    there = jax.devices()
    if wanted is not None and jax.process_count() > 1:
        raise ConfigError("execution.devices: several processes use all of their devices; leave it out")
    if wanted is not None and wanted > len(there):
        raise ConfigError(f"execution.devices: {wanted} asked for, but JAX has {len(there)} ({there[0].platform})")
    chosen = np.array(there[:wanted])
    return Mesh(chosen, (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def _free_memory() -> int:
    """Half of the bytes that are free on a device; the other half is for what the estimate of a model leaves out."""
    said = jax.local_devices()[0].memory_stats() or {}
    return (said.get("bytes_limit", 8 << 30) - said.get("bytes_in_use", 0)) // 2


def replicate(tree: Any, how: Layout) -> Any:
    """The arrays on every device, once: an input that moves from one device to all would be copied, and compiled for,
    a second time. With several processes each must give the same arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, how.everywhere)
    return jax.tree.map(partial(_from_every_process, how=how), tree)


def _from_every_process(leaf: Any, how: Layout) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # it is already
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, how.everywhere, leaf.__getitem__)


def from_first(tree: Any) -> Any:
    """These arrays as process 0 has them, bit for bit, on the host of every process; all give the same shapes."""
    from jax.experimental import multihost_utils  # here: only several processes need it

    arrays = jax.tree.map(np.asarray, tree)
    # As bytes: the exchange is a sum with zeros, and -0.0 + 0.0 is 0.0.
    raw = jax.tree.map(lambda a: np.frombuffer(a.tobytes(), np.uint8), arrays)
    told = multihost_utils.broadcast_one_to_all(raw)
    return jax.tree.map(lambda a, t: np.frombuffer(np.asarray(t).tobytes(), a.dtype).reshape(a.shape), arrays, told)


def named_from_first(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Named arrays as process 0 has them, bit for bit, in every process; what the others give is not looked at."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    size = int(from_first(np.int64(buffer.tell())))
    buffer.truncate(size)
    told = from_first(np.frombuffer(buffer.getvalue().ljust(size, b"\0"), np.uint8))
    with np.load(io.BytesIO(told.tobytes()), allow_pickle=False) as packed:
        return dict(packed)


def gathered(tree: Any, how: Layout) -> Any:
    """Within a program: these arrays, whole, on every device of every process, so that the host can read them."""
    return jax.lax.with_sharding_constraint(tree, how.everywhere)


def lift(fn: Callable[..., Any], how: Layout, *stacked: Any) -> Any:
    """fn over the leading axis of every argument: one after the other, or in chunks of models side by side."""
    if how.one_by_one:
        return jax.lax.map(partial(_spread, fn), stacked)
    length = jax.tree.leaves(stacked)[0].shape[0]
    chunks = -(-length // how.chunk)
    if chunks == 1:
        return jax.vmap(fn)(*stacked)
    size = -(-length // chunks)
    parts = jax.tree.map(lambda a: a.reshape(chunks, size, *a.shape[1:]), _lengthened(stacked, chunks * size))
    done = jax.lax.map(partial(_spread, jax.vmap(fn)), parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], done)


def _spread(fn: Callable[..., Any], arguments: tuple) -> Any:
    return fn(*arguments)


def _lengthened(stacked: Any, length: int) -> Any:
    """The last entry is repeated: done again, its result is dropped."""
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], length - a.shape[0], 0)]), stacked)


def deal(fn: Callable[..., Any], how: Layout, stacked: tuple, shared: tuple) -> Any:
    """fn(*one of stacked, *shared) over the leading axis of `stacked`, dealt out over the devices.

    Where the devices share it out evenly the result stays where it was made; otherwise it is gathered.
    """
    length = jax.tree.leaves(stacked)[0].shape[0]
    each = -(-length // how.devices)

    def on_device(stacked: tuple, shared: tuple) -> Any:
        return lift(lambda *one: fn(*one, *shared), how, *stacked)

    run = jax.shard_map(on_device, mesh=how.mesh, in_specs=(P(AXIS), P()), out_specs=P(AXIS), check_vma=False)
    done = run(_lengthened(stacked, each * how.devices), shared)
    if each * how.devices == length:
        return done
    return gathered(jax.tree.map(lambda a: a[:length], done), how)
