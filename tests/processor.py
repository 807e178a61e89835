"""How the tests compile, and where they keep compiled programs. Imports no JAX: that must be told before it starts."""

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

OLDER_EMITTERS = tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11)
"""XLA had two; jaxlib 0.11 has the newer ones alone, and ends a process at a flag that it does not know."""
FLAGS = ("--xla_backend_optimization_level=1", *["--xla_cpu_use_fusion_emitters=false"] * OLDER_EMITTERS)
"""A test compiles a program and runs it for a moment. Hardly optimised, and by the older emitters, the program is there
in half of the time."""
UNOPTIMISED = "jax_disable_most_optimizations"
"""JAX's setting with which it is there in half of that time again, but runs three to six times as long. For programs
that a test runs only a few times."""


def compiling_fast(flags: str) -> str:
    """These XLA_FLAGS and FLAGS; or they alone, where they say how far to optimise."""
    told = flags.split()
    if any(flag.startswith(FLAGS[0].split("=")[0]) and flag != FLAGS[0] for flag in told):
        return flags
    return " ".join([*told, *(flag for flag in FLAGS if flag not in told)])


def as_a_user(environment: Mapping[str, str]) -> dict[str, str]:
    """This environment without FLAGS, for a process that must compile as a user's does."""
    kept = [flag for flag in environment.get("XLA_FLAGS", "").split() if flag not in FLAGS]
    return {**environment, "XLA_FLAGS": " ".join(kept)}


def programs_folder() -> Path:
    """One folder for every kind of processor: a program made for wider registers ends the process elsewhere.

    What else decides a program is part of JAX's own key of it: XLA_FLAGS, the release of jaxlib, precision, devices.
    """
    info = Path("/proc/cpuinfo")
    flags = next((row for row in info.read_text().splitlines() if row.startswith("flags")), "") if info.exists() else ""
    kind = hashlib.sha256(f"{platform.machine()} {platform.processor()} {flags}".encode()).hexdigest()[:12]
    return Path(__file__).parent.parent / ".pytest_cache" / "programs" / kind
