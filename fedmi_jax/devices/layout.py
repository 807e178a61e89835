"""How leading axes are run: side by side, one after the other, over devices and processes.

Other modules see only `Layout`.

Axes: M models (seeds x clients) or C circuits, D devices, B images of a batch.

On a CPU, JAX's own devices are cores: with one device per core every operation of a step is parallel, not only its
matmuls. A few clients there share every batch out among the cores, which keeps all of them busy to the end; many
clients, and GPUs, are dealt whole clients, which asks for no exchange until the average.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.config import Evaluation, Execution
from fedmi_jax.errors import ConfigError

AXIS = "devices"
BESIDE = "beside"
"""The axis of models that stand side by side on one device."""


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
    def homes(self) -> int:
        """Over how many devices the clients' models are dealt out, each to stay where it was trained; 1: every device
        has all of them."""
        return self.devices if self.shard == "clients" else 1

    @property
    def one_by_one(self) -> bool:
        return self.chunk == 1

    @property
    def beside(self) -> str | None:
        """The name of the axis along which models stand side by side, where they do."""
        return None if self.one_by_one else BESIDE

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


def resolve(
    settings: Execution,
    judged: Evaluation | None = None,
    models: int = 1,
    model_bytes: int = 0,
    rows: int | None = None,
) -> Layout:
    """What these settings mean on the devices at hand.

    Args: models: how many are trained in a round; model_bytes: what training one of them takes beside others; rows: the
    most models, or masked models, of any program; None: as many as models.
    Raises ConfigError where more devices are asked for than there are.
    """
    mesh, cpu = _mesh(settings.devices), jax.default_backend() == "cpu"
    shard, chunk = settings.shard, settings.client_chunk
    if shard == "auto":
        shared = cpu and jax.process_count() == 1 and models < MANY * mesh.size
        shard = "batch" if shared else "clients"
    if chunk == "auto":
        fit = 1 if cpu else max(1, _free_memory() // max(model_bytes, 1))
        chunk = min(fit, rows or models)  # a larger one would only be another program
    return Layout(
        mesh=mesh,
        shard=shard,
        chunk=chunk,
        micro_batch=settings.micro_batch or (16 if cpu else 0),
        forward_batch=(judged.batch_size if judged else 0) or (50 if cpu else 500),
    )


def described(layout: Layout) -> dict[str, str]:
    """What a result says of where it was made: device, its driver where there is one, and the layout as JSON."""
    first = layout.mesh.devices.flat[0]
    driver = " ".join(first.client.platform_version.split())
    numbers = {
        "shard": layout.shard, "chunk": layout.chunk, "micro_batch": layout.micro_batch,
        "forward_batch": layout.forward_batch, "devices": layout.devices, "processes": jax.process_count(),
    }  # fmt: skip
    known = {} if "unknown" in driver else {"driver": driver}
    return {"device": f"{layout.devices} x {first.device_kind}", "layout": json.dumps(numbers)} | known


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
