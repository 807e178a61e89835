"""Where the tests keep compiled programs. Imports no JAX: that must be told before it starts."""

import hashlib
import platform
from pathlib import Path


def programs_folder():
    """One folder for every kind of processor: a program made for wider registers ends the process elsewhere."""
    info = Path("/proc/cpuinfo")
    flags = next((row for row in info.read_text().splitlines() if row.startswith("flags")), "") if info.exists() else ""
    kind = hashlib.sha256(f"{platform.machine()} {platform.processor()} {flags}".encode()).hexdigest()[:12]
    return Path(__file__).parent.parent / ".pytest_cache" / "programs" / kind
