"""The refit of a read-out, for whoever trains. It needs the network alone, and servers use it: see there."""

from fedmi_jax.network.readout import refit as refit
