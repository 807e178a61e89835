"""What every test shares: two CPU devices, as in real use, and a small data set."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def squares():
    """A data set whose four classes are learnt in a moment."""
    import tiny

    return tiny.squares()
