"""Moved, or different? IoU of circuits after the best matching of channels between two models.

Axes: S seeds, R rounds, K clients, O_l channels of convolution l.

Two networks that compute the same may hold it in other channels: raw IoU would call them different. Channels are
matched layer by layer (as in Ainsworth et al. 2023, one pass from the image up): a layer's inputs are first put in the
order that the layer before was matched in; then the one-to-one matching of output channels that minimises the summed
squared distance of their kernels and biases is found exactly (`scipy.optimize.linear_sum_assignment`). The matching
looks at weights only, never at circuits, so chance gives it no higher IoU than raw: the null stays that of
`analysis.nulls`.

Needs a result with weights: `fedmi run ... --execution.save-weights`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment

from fedmi_jax.errors import FedmiError
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import VARIABLES, conv_layers
from fedmi_jax.results.similarity import iou

ALIGNED = ("aligned_local_global_iou", "aligned_specialist_distinctness", "moved")
Weights = Mapping[str, np.ndarray]
"""{"conv1_kernel": (3, 3, I, O_1), "conv1_bias": (O_1,), ...} of one model."""
Matching = dict[str, np.ndarray]
"""{"conv1": (O_1,), ...}: entry i is the channel of the second model that stands for channel i of the first."""


def match(first: Weights, second: Weights) -> Matching:
    """The channels of `second` in the order of those of `first`."""
    found: Matching = {}
    inputs = np.arange(first["conv1_kernel"].shape[2])  # the image's channels are what they are
    for layer in conv_layers(first):
        a, b = (_incoming(model, layer) for model in (first, second))
        inputs = linear_sum_assignment(_distances(a, b[:, inputs]))[1]
        found[layer] = inputs
    return found


def _incoming(model: Weights, layer: str) -> np.ndarray:
    """All that decides a channel's output but its inputs: (O, I, 9 + 1), a share of the bias beside each kernel."""
    kernel = np.asarray(model[f"{layer}_kernel"], float)
    kernel = kernel.reshape(-1, *kernel.shape[2:]).transpose(2, 1, 0)
    bias = np.asarray(model[f"{layer}_bias"], float) / np.sqrt(kernel.shape[1])
    return np.concatenate([kernel, np.broadcast_to(bias[:, None, None], (*kernel.shape[:2], 1))], -1)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(O, O) squared distances."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T


def aligned(ds: xr.Dataset) -> xr.Dataset:
    """Permutation-aligned measures, float64 in [0, 1], NaN where there is no pair:

    - aligned_local_global_iou (seed, round, client, class, layer): as local_global_iou, global model against the
      client's.
    - aligned_specialist_distinctness (seed, round, layer): as specialist_distinctness of *local* circuits, over pairs
      of the clients' own models.
    - moved (seed, round, client, layer): share of the global model's channels that are matched to another number.

    As the result has them (`compact`), or from its weights. Raises FedmiError where it has neither.
    """
    if set(ALIGNED) <= set(ds):
        return ds[list(ALIGNED)]
    _require_weights(ds)
    there, union, depth = held(ds), _unions(ds), len(conv_layers(ds))
    shape, (seeds, rounds, clients) = there.shape, there.shape[:3]
    preserved = np.full((*shape, depth), np.nan)
    distinct = np.full((seeds, rounds, depth), np.nan)
    moved = np.full((seeds, rounds, clients, depth), np.nan)
    for s, r in np.ndindex(seeds, rounds):
        present = np.flatnonzero(there.values[s, r].any(-1)).tolist()
        models = {k: _model(ds, "local", s, r, k) for k in present}
        for k, order in ((k, match(models[k], _model(ds, "global", s, r))) for k in present):
            preserved[s, r, k] = _preserved(ds, order, s, r, k)
            moved[s, r, k] = [np.mean(own != np.arange(len(own))) for own in order.values()]
        distinct[s, r] = _distinctness(models, {layer: used[s, r] for layer, used in union.items()})
    where = there.values[..., None]
    found = zip(ALIGNED, (np.where(where, preserved, np.nan), distinct, moved), strict=True)
    return xr.Dataset(
        {name: (VARIABLES[name].dims, values) for name, values in found},
        {name: ds[name] for name in ("seed", "round", "client", "class", "layer")},
    )


def has_aligned(ds: xr.Dataset) -> bool:
    """Whether `aligned` has what it needs."""
    return set(ALIGNED) <= set(ds) or "weights_local_conv1_kernel" in ds


def _require_weights(ds: xr.Dataset) -> None:
    if not has_aligned(ds):
        raise FedmiError("weights_*: not in the result; produce them with `fedmi run ... --execution.save-weights`")


def _model(ds: xr.Dataset, origin: str, seed: int, round_: int, client: int | None = None) -> Weights:
    at = {"seed": seed, "round": round_} | ({} if client is None else {"client": client})
    names = [f"{layer}_{part}" for layer in conv_layers(ds) for part in ("kernel", "bias")]
    return {name: ds[f"weights_{origin}_{name}"].isel(at).values for name in names}


def _preserved(ds: xr.Dataset, order: Matching, seed: int, round_: int, client: int) -> np.ndarray:
    """(C, layers) of one client."""
    own = ds.isel(seed=seed, round=round_, client=client)
    masks = {layer: own[f"mask_{layer}"].transpose("origin", "class", ...) for layer in conv_layers(ds)}
    pairs = ((m.sel(origin="local").values, m.sel(origin="global").values[:, order[k]]) for k, m in masks.items())
    return np.stack([iou(local, global_) for local, global_ in pairs], -1)


def _unions(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Channels of any local circuit of a client: {layer: bool (S, R, K, O)}."""
    local, there = ds.sel(origin="local"), held(ds)
    used = {layer: (local[f"mask_{layer}"].astype(bool) & there).any("class") for layer in conv_layers(ds)}
    return {layer: m.transpose("seed", "round", "client", ...).values for layer, m in used.items()}


def _distinctness(models: Mapping[int, Weights], union: Mapping[str, np.ndarray]) -> np.ndarray | float:
    """(layers,): mean over pairs of clients."""
    values = [[float(iou(used[a], used[b][order[k]])) for k, used in union.items()] for a, b, order in _pairs(models)]
    return np.mean(values, 0) if values else np.nan


def _pairs(models: Mapping[int, Weights]) -> Iterator[tuple[int, int, Matching]]:
    for a, b in itertools.combinations(sorted(models), 2):
        yield a, b, match(models[a], models[b])
