"""What every test shares: two CPU devices, as in real use, and a precision that no test changes for the next."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(autouse=True)
def _precision_stays():
    """`fedmi_jax.execution.prepare` switches the precision of the whole process."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


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
