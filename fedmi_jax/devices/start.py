"""JAX is started: what it must be told before, why it may fail, and which settings of the user's may change numbers."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import jax

from fedmi_jax.errors import FedmiError


def before_start() -> None:
    """What JAX must be told before it starts; to be called by whoever may be the first to start it."""
    use_all_cores()
    allow_pauses()


def start() -> None:
    """Start JAX, told what it must be. Raises FedmiError, which names the settings of it, where it finds no device."""
    told = ", ".join(f"{name}={value}" for name, value in _changed(_OF_START).items())
    before_start()
    try:
        jax.devices()
    except Exception as error:  # without CUDA's part of JAX it is a bare AssertionError
        said = " ".join(re.sub(r"\(.*?\)", "", str(error)).split())[:200]
        raise FedmiError(
            f"JAX does not start{f' with {told}' if told else ''}: "
            f"{said or 'there is no such device, or the part of JAX for it is not installed'}; without such settings "
            "JAX takes the devices that there are, with JAX_PLATFORMS=cpu the processor"
        ) from None


def use_all_cores() -> None:
    """Let JAX's CPU backend have one device per core.

    Does nothing once JAX has started, or where XLA_FLAGS or JAX's setting jax_num_cpu_devices already say how many.
    """
    said = "xla_force_host_platform_device_count" in xla_flags()
    if not said and jax.config.values["jax_num_cpu_devices"] < 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with contextlib.suppress(RuntimeError):  # JAX has started: its devices are what they are
            jax.config.update("jax_num_cpu_devices", cores or 1)


def allow_pauses() -> None:
    """Let a run that was stopped for a while (Ctrl-Z) go on: XLA's CPU backend otherwise ends a process whose devices
    have not met for 40 seconds. Has no effect once JAX has started, and XLA_FLAGS that say how long are left alone."""
    said = xla_flags()
    if _PAUSES not in said:
        os.environ["XLA_FLAGS"] = f"{said} --{_PAUSES}={PAUSE}".strip()


_PAUSES = "xla_cpu_collective_call_terminate_timeout_seconds"
PAUSE = 7 * 24 * 3600
"""Seconds."""


def xla_flags() -> str:
    """What XLA_FLAGS say: they may be the name of a file that says it. Raises FedmiError where that cannot be read."""
    said = os.environ.get("XLA_FLAGS", "")
    if not said.strip() or said.lstrip().startswith("-"):
        return said
    try:
        return Path(said).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise FedmiError(
            f"XLA_FLAGS: {said} cannot be read ({getattr(error, 'strerror', None) or error}); give flags, each with "
            "two dashes before it, or a file that holds them"
        ) from None


def settings() -> dict[str, str]:
    """Settings of JAX, XLA and NVIDIA's libraries that may change a number and are not as they come; empty: none.

    What else could change one a run sets itself: `session`, which on a GPU says how to multiply too, and
    `keys.same_draws`. JAX has started.
    """
    flags = " ".join(flag for flag in xla_flags().split() if _PAUSES not in flag)
    said = {"XLA_FLAGS": flags, "NVIDIA_TF32_OVERRIDE": os.environ.get("NVIDIA_TF32_OVERRIDE", "")}
    changed = _changed(_OF_NUMBERS)
    if jax.default_backend() != "cpu":
        changed.pop("JAX_DEFAULT_MATMUL_PRECISION", None)
    return {name: value for name, value in said.items() if value} | changed


_OF_NUMBERS = {
    "jax_default_matmul_precision": None, "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN", "jax_exec_time_optimization_effort": 0.0,
}  # fmt: skip
"""Settings of JAX, and how they come."""
_OF_START = {"jax_platforms": None, "jax_platform_name": "", "jax_num_cpu_devices": -1}


def _changed(usual: dict[str, Any]) -> dict[str, str]:
    """Those of these settings of JAX that are not as they come, by the names that they have in the environment."""
    now = jax.config.values
    return {name.upper(): str(now[name]) for name, value in usual.items() if now.get(name, value) != value}
