"""What a federated method is: what the server does with the clients' models, and what it changes in their training.

Every function of a method is pure and is written for ONE federation and, in the hooks and in `serve`, for ONE client.
Seeds and clients are lifted over it with `jax.vmap` and `jax.lax.map`.

    from fedmi_jax.aggregation import Clients, Method, State, fedavg, tree_mean

    def apply(state, params, clients):  # half a step towards the mean
        mean = tree_mean(clients.params, clients.samples)
        return {name: (params[name] + mean[name]) / 2 for name in params}, state

    fedmi_jax.run(experiment, method=fedavg()._replace(name="half-step", apply=apply))

Axes: K clients of the round, K_total clients in all, Y classes, N images, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from fedmi_jax.errors import FedmiError
from fedmi_jax.network.model import Gates, Params


class Clients(NamedTuple):
    """All that the server may see of the clients of a round. A new field breaks no method."""

    params: Params
    """The trained models, (K, ...)."""
    samples: Array
    """int (K,): training images of each client."""
    counts: Array
    """int (K, Y): the same, by class."""
    steps: Array
    """int (K,): optimiser steps that each client made in this round."""
    numbers: Array
    """int (K,), ascending: which of all clients these are. `state.clients` is indexed with it."""
    masks: Gates | None = None
    """{layer: bool (K, Y, O_l)}: the circuits that were found on the clients' own models. Closed where a client does
    not look for a class. None where the method does not need circuits."""

    images: Array | None = None
    """(N, H, W, I): the images that the server may see (`Method.sees`), normalised. None where it asks for none."""
    labels: Array | None = None
    """int (N,): their classes; -1 in the place of an image that there is not."""


class Sees(NamedTuple):
    """Which images the server may see: so many of each class that a client holds, drawn once with the seed."""

    per_class: int
    whose: Literal["clients", "nobody"]
    """"clients": training images of the clients, who thereby give these away; "nobody": training images that no client
    holds, of the same classes."""


class State(NamedTuple):
    """What a method remembers from one round to the next: two pytrees of arrays, None where there is nothing."""

    server: Any = None
    """Of the server."""
    clients: Any = None
    """Of the clients: every leaf has the leading axis K_total. A hook sees its own client's entry alone."""


NO_STATE = State()


def no_state(params: Params, clients_total: int) -> State:
    """For `Method.init`: the method remembers nothing."""
    return NO_STATE


def same_logits(logits: Array, counts: Array) -> Array:
    """For `Method.logits`: the plain cross-entropy."""
    return logits


def same_gradient(gradient: Params, params: Params, start: Params, state: State) -> Params:
    """For `Method.correct`: the plain gradient."""
    return gradient


def no_problem(counts: np.ndarray) -> str:
    """For `Method.problem`: the method works with any clients."""
    return ""


class Method(NamedTuple):
    """A federated method. Hashable: it is a static argument of the compiled programs."""

    name: str
    apply: Callable[[State, Params, Clients], tuple[Params, State]]
    """(state, global params, clients) -> new global params and state, both of the same structure, shapes and dtypes."""
    init: Callable[[Params, int], State] = no_state
    """(initial global params, K_total) -> the state before the first round."""
    logits: Callable[[Array, Array], Array] = same_logits
    """(logits (N, Y), the client's images by class (Y,)) -> the logits that the loss takes. In training only."""
    correct: Callable[[Params, Params, Params, State], Params] = same_gradient
    """(gradient, params, the params that the round began with, state) -> the gradient that Adam takes.
    `state.clients` is this client's entry."""
    serve: Callable[[Params, State], Params] | None = None
    """(global params, state) -> the model that ONE client starts from, and that is judged as the global model for it;
    `state.clients` is this client's entry. None: everyone gets the global model."""
    needs_circuits: bool = False
    """Whether `apply` reads `clients.masks`: circuits are then looked for before the models are aggregated."""
    trainable: Callable[[Params, State], Mapping[str, Array]] | None = None
    """(params that the round began with, state) -> bool arrays that broadcast to the params: what this client changes.
    All else keeps its values bit for bit and is not pruned, and the amounts to prune are of what it changes, unless
    it `prunes_all`.
    `state.clients` is this client's entry. None: everything."""
    prunes_all: bool = False
    """Whether a client prunes what it does not change, too."""
    sees: Sees | None = None
    """The images that `apply` finds in `clients.images`. None: none."""
    tells: tuple[str, ...] = ()
    """The entries of `state.server`, then a dict, that go into the result of every round. Each is a variable of
    `fedmi_jax.results.schema`."""
    pooled: bool = False
    """Whether a client trains on the images of all clients: one model then, the same for everybody."""
    problem: Callable[[np.ndarray], str] = no_problem
    """The images by class of the clients of a round, int (K, Y) -> why the method cannot work with them, and what would
    be right; empty: it can."""
    summary: str = ""
    """One line."""
    source: str = ""
    """Who published it."""


def with_hooks(
    method: Method,
    logits: Callable[[Array, Array], Array] = same_logits,
    correct: Callable[[Params, Params, Params, State], Params] = same_gradient,
) -> Method:
    """The method with these hooks after its own ones."""

    def both_logits(values: Array, counts: Array) -> Array:
        return logits(method.logits(values, counts), counts)

    def both_gradients(gradient: Params, params: Params, start: Params, state: State) -> Params:
        return correct(method.correct(gradient, params, start, state), params, start, state)

    return method._replace(logits=both_logits, correct=both_gradients)


def initial(method: Method, params: Params, clients_total: int) -> State:
    """The state before the first round. Raises FedmiError, in one line, for one that is none."""
    state = method.init(params, clients_total)
    if not isinstance(state, State):
        raise FedmiError(f"method {method.name}: init must return a State; it returns a {type(state).__name__}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.clients):
        if jax.numpy.shape(leaf)[:1] != (clients_total,):
            where, shape = jax.tree_util.keystr(path), jax.numpy.shape(leaf)
            raise FedmiError(
                f"method {method.name}: init must give every client a state, ({clients_total}, ...); "
                f"state.clients{where} has the shape {shape}"
            )
    return state


def applied(method: Method, state: State, params: Params, clients: Clients) -> tuple[Params, State]:
    """The server's step. Raises FedmiError, in one line, where it gives back anything of another shape."""
    if method.needs_circuits and clients.masks is None:
        raise FedmiError(f"method {method.name}: it needs the circuits of the clients, which are not looked for here")
    if method.sees is not None and clients.images is None:
        raise FedmiError(f"method {method.name}: it needs images that the server may see, which are not given here")
    _require_clients(method, params, clients)
    found = method.apply(state, params, clients)
    if not isinstance(found, tuple) or len(found) != 2:
        raise FedmiError(f"method {method.name}: apply must return two things, the new params and the new state")
    _require_same(method, "apply", "params", dict(params), found[0])
    _require_same(method, "apply", "state", state, found[1])
    return found


def seen(clients: Clients) -> tuple[Array, Array]:
    """The images that the server may see and their labels, of a method that asks for some."""
    assert clients.images is not None
    assert clients.labels is not None
    return clients.images, clients.labels


def _require_clients(method: Method, params: Params, clients: Clients) -> None:
    """Raise FedmiError where there is nothing to aggregate, or nothing that has a mean."""
    if not len(clients.samples):
        raise FedmiError(f"method {method.name}: no client takes part in the round")
    if not isinstance(clients.samples, Tracer) and not np.any(clients.samples):
        raise FedmiError(f"method {method.name}: no client of the round has a training image")
    for name, leaf in params.items():
        if not jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.floating):
            kind = jax.numpy.result_type(leaf)
            raise FedmiError(f"method {method.name}: params['{name}'] is {kind}; it averages floating point only")


def served(method: Method, params: Params, state: State) -> Params:
    """The model that one client starts from. Raises FedmiError, in one line, where it has another shape."""
    if method.serve is None:
        return params
    model = method.serve(params, state)
    _require_same(method, "serve", "params", dict(params), model)
    return model


def _require_same(method: Method, function: str, what: str, before: Any, after: Any) -> None:
    """Raise FedmiError unless both have the same structure, shapes and dtypes."""
    wanted, found = _leaves(before), _leaves(after)
    if jax.tree.structure(before) != jax.tree.structure(after) and wanted.keys() == found.keys():
        raise FedmiError(f"method {method.name}: {function} must return the {what} in the containers that it was given")
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            raise FedmiError(
                f"method {method.name}: {function} must keep every array of the {what}, its shape and its dtype; "
                f"{what}{name} was {wanted.get(name, 'not there')} and is {found.get(name, 'not there')}"
            )


def _leaves(tree: Any) -> dict[str, str]:
    """{path: "float32(3, 2)"}."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): f"{jax.numpy.result_type(leaf)}{jax.numpy.shape(leaf)}" for path, leaf in named}
