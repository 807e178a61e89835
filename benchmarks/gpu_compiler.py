"""XLA's compiler for a GPU, on a machine that has none.

It is part of JAX's CUDA plugin (extra `gpu-plan` of setup.cfg) and asks for no GPU when it is told what the card is like.
Launches, bytes and memory are those of the real card; which algorithm a library would choose there is not known, since
that is found by trying.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, NamedTuple

FLAGS = "--xla_gpu_autotune_level=0"


class Card(NamedTuple):
    """A GPU, from NVIDIA's data sheets."""

    name: str
    capability: tuple[int, int]
    cores: int
    """Streaming multiprocessors."""
    bandwidth: float
    """Bytes a second, of its memory."""
    flops: float
    """A second, of float32 without tensor cores."""
    l2: int
    """Bytes."""
    clock: float
    """GHz."""
    memory: int
    """Bytes."""
    shared: int
    """Bytes of shared memory per multiprocessor; a block may have 1024 fewer."""
    threads: int
    """Per multiprocessor."""


CARDS = {
    "h100": Card(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 3.352e12, 66.9e12, 52428800, 1.98, 84929347584, 233472, 2048
    ),
    "rtx4090": Card(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 1.008e12, 82.6e12, 75497472, 2.52, 25386352640, 102400, 1536
    ),
}  # fmt: skip


def why_absent() -> str | None:
    """Why nothing can be compiled for a GPU here, in one line; None where it can."""
    if importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None:
        missing = "jax-cuda13-pjrt and jax-cuda13-plugin"
    elif cuda_folder() is None:
        missing = "nvidia-cuda-nvcc and nvidia-nvvm"
    else:
        return None
    return f"XLA's compiler for a GPU is not installed ({missing} are missing): pip install 'fedmi-jax[gpu-plan]'"


def cuda_folder() -> Path | None:
    """Where NVIDIA's assembler and its library of device functions are; None where they are not."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(root) / "cu13" for root in (spec.submodule_search_locations or [])] if spec else []
    return next((f for f in folders if (f / "bin" / "ptxas").exists() and (f / "nvvm" / "libdevice").exists()), None)


def tell_xla() -> None:
    """What XLA must be told before JAX starts; to be called where `why_absent` is None."""
    cuda = cuda_folder()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    os.environ["PATH"] = f"{cuda}/bin{os.pathsep}{os.environ['PATH']}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_cuda_data_dir={cuda} {FLAGS}".strip()


def device(card: Card) -> Any:
    """A device of JAX's that can be compiled for."""
    from jax.experimental import topologies

    described = _description(card)
    return topologies.get_topology_desc(platform="cuda", target_config=described, topology="1x1x1").devices[0]


def _description(card: Card) -> str:
    """As XLA's `GpuTargetConfigProto` in text."""
    major, minor = card.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared} threads_per_core_limit: {card.threads} core_count: {card.cores}
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {card.bandwidth:.0f} l2_cache_size: {card.l2} clock_rate_ghz: {card.clock}
  device_memory_size: {card.memory} shared_memory_per_block_optin: {card.shared - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{card.name}"
"""
