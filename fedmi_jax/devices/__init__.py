"""How leading axes are run: side by side, one after the other, over devices and processes."""

from __future__ import annotations


def require_jax() -> None:
    """To be called before anything that imports JAX. Raises FedmiError where JAX or flax cannot be imported: they read
    their settings from the environment then, and refuse a value that they do not know with a traceback."""
    from fedmi_jax.errors import FedmiError

    try:
        import flax  # noqa: F401
        import jax  # noqa: F401
    except Exception as error:  # ValueError and others, from wherever the setting is read
        said = " ".join(str(error).split()) or type(error).__name__
        raise FedmiError(f"JAX cannot be imported: {said[:200]}; correct its settings in the environment") from None
