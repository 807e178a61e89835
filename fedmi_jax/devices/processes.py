"""Several processes, on one host or on many, that run one experiment together, through JAX's own distributed runtime.

Every process runs the same program on the same arguments and computes the same host arrays; the devices of all of them
form one mesh (`layout`), and only process 0 prints and writes.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from fedmi_jax.devices.start import before_start, start
from fedmi_jax.errors import ConfigError, FedmiError, Interrupted, say

JOIN_SECONDS = 60
"""How long a process waits for the others at the start."""
SILENCE_SECONDS = 30
"""After so long without a sign of life a process counts as dead, and the others end."""


def join(coordinator: str | None = None, processes: int | None = None, process_id: int | None = None) -> None:
    """Become one of several processes; to be called before JAX is used.

    Args: coordinator: HOST:PORT, where process 0 listens; processes: how many there are; process_id: which this one is.
    All None: as SLURM, Open MPI or the cluster's metadata say (`jax.distributed`). Raises ConfigError where they do not
    fit together, FedmiError where JAX finds no cluster. When the others are not met within JOIN_SECONDS the process
    says so and ends with status 2: JAX itself would abort it with a dump of its stack.
    """
    _require_consistent(coordinator, processes, process_id)
    before_start()
    place = f"at {coordinator}" if coordinator else "of this cluster"
    patience = threading.Timer(JOIN_SECONDS, _end, [
        f"distributed: the processes {place} did not all come within {JOIN_SECONDS} s; start every one of them with "
        "the same --coordinator and --processes, and ids 0 to N-1"
    ])  # fmt: skip
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            coordinator, processes, process_id, initialization_timeout=10 * JOIN_SECONDS,
            heartbeat_timeout_seconds=SILENCE_SECONDS, shutdown_timeout_seconds=SILENCE_SECONDS,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise FedmiError(f"distributed: {' '.join(str(error).split())[:200]}") from None
    finally:
        patience.cancel()


def _end(said: str, status: int = 2) -> NoReturn:
    """At once: the orderly end of JAX's runtime would wait for processes that may be gone."""
    say(said)
    os._exit(status)


def _require_consistent(coordinator: str | None, processes: int | None, process_id: int | None) -> None:
    given = [value is not None for value in (coordinator, processes, process_id)]
    if any(given) and not all(given):
        raise ConfigError("distributed: give all of --coordinator HOST:PORT, --processes N and --process-id I, or none")
    if coordinator is None or processes is None or process_id is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"coordinator: give HOST:PORT of process 0, as in 10.0.0.1:7777; got {coordinator!r}")
    if processes < 1:
        raise ConfigError(f"processes: give at least 1; got {processes}")
    if not 0 <= process_id < processes:
        raise ConfigError(f"process-id: ids run from 0 to {processes - 1}; got {process_id}")


def is_first() -> bool:
    """Whether this process is the one that prints and writes. To ask starts JAX, told what it must be."""
    start()
    return jax.process_index() == 0


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Within it an error ends this process at once, with one line.

    The others notice at the next exchange and end too; or JAX's runtime, after SILENCE_SECONDS, aborts them.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        text = " ".join(str(error).split())
        me = f"process {jax.process_index()} of {jax.process_count()}"
        if isinstance(error, FedmiError):
            _end(text, error.status if isinstance(error, Interrupted) else 2)
        if not any(sign in text for sign in EXCHANGE_SIGNS):
            traceback.print_exc()
            _end(f"{me} failed, see above")
        _end(f"{me}: another process ended or is out of reach ({text[:160]})")


EXCHANGE_SIGNS = ("Gloo", "NCCL", "oordination", "heartbeat")
"""What the text of an error of an exchange between processes holds; its type is not one of its own."""


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
