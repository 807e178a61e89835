"""JAX, told what it must be during a run: precision, kept programs; and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from fedmi_jax.config import Execution
from fedmi_jax.devices.start import start
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import cache_folder


def keep_compiled() -> None:
    """Let JAX keep compiled programs on disk, so that only the first run waits for the compiler.

    The folder is $FEDMI_CACHE/programs, or ~/.cache/fedmi_jax/programs. Does nothing where JAX has been told a folder
    of its own (JAX_COMPILATION_CACHE_DIR) or to keep nothing (JAX_ENABLE_COMPILATION_CACHE=0), or where no home folder
    is known.
    """
    said: Any = jax.config  # its values are attributes that are not declared
    if said.jax_compilation_cache_dir is None and said.jax_enable_compilation_cache:
        try:
            folder = cache_folder() / "programs"
        except FedmiError:
            if os.environ.get("FEDMI_CACHE"):
                raise
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextlib.contextmanager
def telling_when_compiling(tell: Callable[[bool], None]) -> Iterator[None]:
    """Within it `tell(True)` is called when JAX begins to compile a program, `tell(False)` when the program is there.

    A program that was kept is announced too, for the moment that it takes to read it. Where JAX keeps no programs it
    does not say when it begins, and `tell(True)` is never called.
    """

    def began(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_requests_use_cache":
            tell(True)

    def ended(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            tell(False)

    jax.monitoring.register_event_listener(began)
    jax.monitoring.register_event_duration_secs_listener(ended)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_listener(began)
        jax.monitoring.unregister_event_duration_listener(ended)


@contextlib.contextmanager
def session(settings: Execution) -> Iterator[None]:
    """Within it JAX computes and multiplies in the precision of these settings, on all cores if it has not started yet.

    Raises FedmiError where JAX does not start, and one that says what to do when memory runs out.
    """
    start()
    keep_compiled()
    try:
        with jax.enable_x64(settings.precision == "float64"), _permissive(), _products(settings):
            yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in FULL):
            raise _out_of_memory(settings, str(error)) from None
        raise


def _products(settings: Execution) -> contextlib.AbstractContextManager[Any]:
    """Within it an accelerator multiplies as `execution.matmul` says. A CPU is told nothing: its programs stay as they
    are, and it has one kind of product."""
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    return jax.default_matmul_precision({"float32": "highest", "tf32": "default"}[settings.matmul])


@contextlib.contextmanager
def _permissive() -> Iterator[None]:
    """Within it nothing that a healthy run does is refused, whatever the environment says.

    These settings of JAX help to find slips in one's own code, by refusing what is no error: a transfer to the device,
    another dtype or rank, minus infinity as the score of a closed channel. JAX_DEBUG_NANS stays as it is: no program
    gives a NaN unless something is wrong.
    """
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.transfer_guard("allow"),
            jax.debug_infs(False), jax.disable_jit(False),
        ):  # fmt: skip
            stack.enter_context(setting)
        yield


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
