"""Every federated method in one table, and what the server of its tests gets.

A new method is one more row. Axes: K clients of the round, K_total clients in all, Y classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax import config
from fedmi_jax.aggregation import Clients, Method, State, base, chosen, fedavg, tree_mean
from fedmi_jax.config import Aggregation, Local
from fedmi_jax.methods import section_of

TOTAL, CLASSES = 5, 3
NUMBERS, SAMPLES = np.array([0, 2, 4]), np.array([100, 300, 2])
SHAPES = {
    "conv1_kernel": (3, 3, 1, 6), "conv1_bias": (6,), "conv2_kernel": (3, 3, 6, 8), "conv2_bias": (8,),
    "fc_kernel": (32, CLASSES), "fc_bias": (CLASSES,),
}  # fmt: skip
"""Of a network for images of 8 x 8 pixels."""


def toy_init(params, clients_total):
    heads = jnp.tile(params["fc_bias"], (clients_total, 1))
    velocity = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}
    return State({"velocity": velocity, "path": 0.0}, {"head": heads, "turns": jnp.zeros(clients_total, int)})


def toy_apply(state, params, clients):
    mean = tree_mean(clients.params, clients.samples)
    old, own = state.server["velocity"], state.clients
    velocity = {name: 0.9 * old[name] + params[name] - mean[name] for name in params}
    heads = own["head"].at[clients.numbers].set(clients.params["fc_bias"])
    turns = own["turns"].at[clients.numbers].add(1)
    server = {"velocity": velocity, "path": state.server["path"] + jnp.sum(velocity["fc_bias"] ** 2)}
    return {name: params[name] - velocity[name] for name in params}, State(server, {"head": heads, "turns": turns})


TOY = Method(
    "toy", toy_apply, toy_init,
    correct=lambda gradient, params, start, state: gradient | {"fc_bias": gradient["fc_bias"] + state.clients["head"]},
    serve=lambda params, state: dict(params) | {"fc_bias": state.clients["head"]},
    summary="server momentum, and a head bias of every client's own", source="this file",
)  # fmt: skip
"""Uses everything that a method may use, circuits excepted."""


def of(kind, **settings):
    """The named method, with these settings of its own."""
    section = section_of(kind)
    own = {section: type(getattr(Aggregation(), section))(**settings)} if settings else {}
    return chosen(Aggregation(kind=kind, **own), Local())


METHODS = {
    **{name: chosen(Aggregation(kind=name), Local()) for name in config.METHODS},
    "fedavg by samples": fedavg("samples"),
    "fedavg and both local options": chosen(Aggregation(), Local(fedprox=0.1, fedrs=0.4)),
    "support mean by samples": chosen(Aggregation(kind="support-mean", weighting="samples"), Local()),
    "ties of updates": of("ties", of="updates", density=0.2),
    "ties of whole updates": of("ties", of="updates"),
    "fedadam unmasked": of("fedadam", masked=False),
    "circuit mean in blocks": of("circuit-mean", blocks=True),
    "fedavgm unmasked": of("fedavgm", masked=False),
    "fedyogi unmasked": of("fedyogi", masked=False),
    "fedbabu, pruned": of("fedbabu", pruned=True),
    "lg-fedavg of two layers": of("lg-fedavg", shared_layers=2),
    "owner channels, hard": of("owner-channels", form="hard"),
    "owner channels, some common": of("owner-channels", common=0.3),
    "matching without biases": of("matching", biases=False),
    "matching of activations": of("matching", of="activations"),
    "calibration of the linear layer": of("calibration", what="linear"),
    "toy": TOY,
}
"""Every method there is, in every form that computes something else; by samples only two, for
tests/test_server_methods.py compares all of them with clients that stand there several times."""


def models(clients=3, dtype=np.float64, seed=0, zeros=0.0):
    """One small model per client, (K, ...); the share `zeros` of its weights is pruned."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(size=(clients, *shape)).astype(dtype) for name, shape in SHAPES.items()}
    return {k: v * (rng.random(v.shape) >= zeros) if k.endswith("kernel") else v for k, v in found.items()}


def first(params):
    """Of the first client."""
    return {name: jnp.asarray(leaf[0]) for name, leaf in params.items()}


def masks(clients=3, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return {layer: rng.random((clients, CLASSES, n)) < share for layer, n in (("conv1", 6), ("conv2", 8))}


def report(params, samples=SAMPLES, numbers=NUMBERS, counts=None, circuits=None, labels=(0, 1, 0, 1, 1, -1)):
    """What the server gets, from params (K, ...)."""
    if counts is None:  # the first class is everybody's, the last one nobody's
        counts = np.stack([samples // 2, samples - samples // 2, 0 * samples], -1)
    circuits = masks(len(samples)) if circuits is None else circuits
    images = np.random.default_rng(0).normal(size=(len(labels), 8, 8, 1)).astype(params["fc_bias"].dtype)
    fields = Clients(params, samples, counts, samples // 10 + 1, numbers, circuits, images, np.array(labels))
    return jax.tree.map(jnp.asarray, fields)


UNSEEN = (-1, -1)
"""Labels of images that are not there."""


def close(method):
    """How close two computations of the same can be expected to be."""
    return {"rtol": 1e-6, "atol": 1e-7} if method.name == "calibration" else {"rtol": 1e-11, "atol": 1e-14}


COMPILED = jax.jit(base.applied, static_argnums=0)  # once for every method, whatever the test


def step(method, start, params, state=None, **fields):
    """The server's step: new global params and state."""
    start = {name: jnp.asarray(leaf) for name, leaf in start.items()}
    state = programs_state(method, start) if state is None else state
    return COMPILED(method, state, start, report(params, **fields))


def programs_state(method, start):
    """As `programs.initial_state` does it: arrays, not Python's numbers."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), base.initial(method, start, TOTAL))


def same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def mean(params, weights=None):
    return {name: np.average(leaf, axis=0, weights=weights) for name, leaf in params.items()}
