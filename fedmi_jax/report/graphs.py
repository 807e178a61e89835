"""Circuit graphs: channels as nodes, the functional connectivity as edges; two circuits overlaid in three colours.

Axes: L layers; O_l channels. A circuit's nodes stand in the column of their layer, in the order of their channels,
evenly spaced, so that the same channel is at the same height in both. An edge's width is the norm of its kernel, where
the result has weights, else the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fedmi_jax.analysis.compact import strengths
from fedmi_jax.analysis.runs import Runs
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import style
from fedmi_jax.report.curves import names
from fedmi_jax.results.connectivity import connected, functional
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import conv_layers
from fedmi_jax.results.similarity import iou

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST, SECOND, BOTH = style.BLUE, style.VERMILLION, style.BLACK


@dataclass(frozen=True)
class Circuit:
    """One circuit with its edges."""

    masks: dict[str, np.ndarray]
    """{layer: bool (O_l,)}."""
    edges: dict[str, np.ndarray]
    """{layer: (O_l, O_{l-1})}, strength of each edge, 0 for none."""


def circuit(ds: xr.Dataset, seed: int, round_: int, origin: str, client: int, label: int) -> Circuit:
    """The circuit at these labels."""
    at = {"seed": seed, "round": round_, "client": client}
    one = ds.sel({**at, "origin": origin, "class": label})
    masks = {layer: one[f"mask_{layer}"].values.astype(bool) for layer in conv_layers(ds)}
    before = dict(zip(masks, (None, *masks.values()), strict=False))
    model = ds.sel(at if origin == "local" else {"seed": seed, "round": round_}).expand_dims(("seed", "round"))
    model = model.expand_dims("client") if origin == "local" else model
    edges = {}
    for layer in masks:
        wires = connected(model, origin, layer).values.squeeze(tuple(range(3 if origin == "local" else 2)))
        edges[layer] = functional(wires.astype(bool), masks[layer], before[layer]) * _strength(model, origin, layer)
    return Circuit(masks, edges)


def _strength(model: xr.Dataset, origin: str, layer: str) -> np.ndarray:
    """(O, I): each edge's strength over the layer's largest, not under a tenth; 1 where the result does not know."""
    if f"strength_{origin}_{layer}" in model:
        found = model[f"strength_{origin}_{layer}"]
    elif f"weights_{origin}_{layer}_kernel" in model:
        found = strengths(model, origin, layer)
    else:
        return np.ones(())
    return np.maximum(found.values.reshape(found.shape[-2:]) / 255, 0.1)


def overlay(first: Circuit, second: Circuit, labels: tuple[str, str], title: str) -> Figure:
    """Two circuits: what only the first has, only the second, and both. Raises FedmiError where neither has a
    channel."""
    used = [int((first.masks[layer] | second.masks[layer]).sum()) for layer in first.masks]
    if not any(used):
        raise FedmiError(f"there is nothing to show: neither circuit has a channel ({title})")
    figure, (axes,) = style.grid(1, 1, 3.3 * max(1, max(used) / 64), style.page())
    heights = _columns(axes, first, second)
    for x, layer in enumerate(first.masks):
        _edges(axes, x, first.edges[layer], second.edges[layer], list(heights.values()))
    _counts(axes, first, second, labels)
    axes.set_title(style.wrapped(title, style.page() - 0.2))
    axes.set_axis_off()
    style.legend(figure, [axes], 3)
    if any(np.unique(one.edges[layer]).size > 2 for one in (first, second) for layer in first.masks):
        style.say(figure, "width of an edge: norm of its kernel")
    if max(used) > NUMBERED:
        style.say(figure, f"layers of more than {NUMBERED} channels are without their numbers")
    return figure


NUMBERED = 32
"""Channels of a layer whose numbers have room beside them."""


def _columns(axes: Axes, first: Circuit, second: Circuit) -> dict[str, np.ndarray]:
    """Draw the nodes; returns each channel's height, NaN for those in neither circuit, from the image up."""
    inputs = first.edges["conv1"].shape[1]
    heights = {"image": _heights(np.ones(inputs, bool))}
    axes.plot(np.zeros(inputs), heights["image"], "s", color=style.NULL, ms=5, zorder=3)
    axes.text(0, -0.06, "image", ha="center", va="top")
    room = style.page() / (len(first.masks) + 0.55) - 0.1
    for x, layer in enumerate(first.masks, 1):
        a, b = first.masks[layer], second.masks[layer]
        heights[layer] = _heights(a | b)
        for chosen, colour in ((a & ~b, FIRST), (b & ~a, SECOND), (a & b, BOTH)):
            y = heights[layer][chosen]
            axes.plot(np.full(len(y), x), y, "o", color=colour, ms=3.4, zorder=3)
        _numbers(axes, x, heights[layer])
        said = style.wrapped(f"{a.sum()} and {b.sum()} channels, IoU {iou(a, b):.2f}", room)
        axes.text(x, -0.06, f"{layer}\n{said}", ha="center", va="top")
    axes.set(xlim=(-0.2, len(first.masks) + 0.35), ylim=(-0.2, 1.04))
    return heights


def _heights(used: np.ndarray) -> np.ndarray:
    """Heights from 1 (lowest channel number) down to 0."""
    heights, count = np.full(len(used), np.nan), int(used.sum())
    heights[used] = np.linspace(1, 0, count) if count > 1 else 0.5
    return heights


def _numbers(axes: Axes, x: int, heights: np.ndarray) -> None:
    """Channel numbers, where there is room for them."""
    used = np.flatnonzero(~np.isnan(heights))
    look = {"va": "center", "fontsize": 6, "path_effects": style.rim(1.2)}
    if len(used) <= NUMBERED:
        for channel in used:
            axes.text(x + 0.04, heights[channel], str(channel), **look)


def _edges(axes: Axes, x: int, first: np.ndarray, second: np.ndarray, heights: list[np.ndarray]) -> None:
    """From the column of this number to the next."""
    from matplotlib.collections import LineCollection

    alone, common = (first * (second == 0), second * (first == 0)), np.sqrt(first * second)
    for chosen, colour, z in ((alone[0], FIRST, 1), (alone[1], SECOND, 1), (common, BOTH, 2)):
        out, into = np.nonzero(chosen)
        ends = [[(x, heights[x][i]), (x + 1, heights[x + 1][o])] for o, i in zip(out, into, strict=True)]
        widths = (0.2 + 1.1 * chosen[out, into]).tolist()
        axes.add_collection(LineCollection(ends, colors=colour, linewidths=widths, alpha=0.55, zorder=z))


def _counts(axes: Axes, first: Circuit, second: Circuit, labels: tuple[str, str]) -> None:
    """The legend: how many channels and edges are whose."""
    whose = ((f"only {labels[0]}", (True, False)), (f"only {labels[1]}", (False, True)), ("both", (True, True)))
    for (label, pick), colour in zip(whose, (FIRST, SECOND, BOTH), strict=True):
        nodes = sum(_count(first.masks[k], second.masks[k], pick) for k in first.masks)
        edges = sum(_count(first.edges[k] > 0, second.edges[k] > 0, pick) for k in first.masks)
        axes.plot([], [], "o-", color=colour, ms=3.4, label=f"{label}: {nodes} channels, {edges} edges")


def _count(a: np.ndarray, b: np.ndarray, pick: tuple[bool, bool]) -> int:
    return int(((a == pick[0]) & (b == pick[1])).sum())


def _place(ds: xr.Dataset, clients: int, rounds: int) -> tuple[int, list[int], list[int], int]:
    """First seed, so many last rounds, the lowest of the classes that most clients hold in all of them, and so many of
    these clients: seed, rounds, clients, class. Raises FedmiError where there are too few."""
    last = held(ds).isel(seed=0, round=slice(-rounds, None)).transpose("round", "client", "class")
    there = last.all("round").values
    label = int(there.sum(0).argmax())
    who = ds["client"].values[there[:, label]][:clients].tolist()
    if len(who) < clients:
        final = last["round"].values[-1]
        raise FedmiError(f"fewer than {clients} clients have a circuit of the same class in round {final}")
    return ds["seed"].values[0].item(), last["round"].values.tolist(), who, int(ds["class"].values[label])


def fig11(runs: Runs) -> list[Figure]:
    """IID: circuits of two clients in the last round, on their own models."""
    ds = runs["iid"]
    seed, (round_,), clients, label = _place(ds, 2, 1)
    first, second = (circuit(ds, seed, round_, "local", k, label) for k in clients)
    title = f"{names(ds)[label]}, round {round_}, seed {seed}: local circuits of two clients"
    return [overlay(first, second, (f"client {clients[0]}", f"client {clients[1]}"), title)]


def fig12(runs: Runs) -> list[Figure]:
    """IID: one client's circuit in the last two rounds, on the global model."""
    ds = runs["iid"]
    seed, rounds, (client,), label = _place(ds, 1, 2)
    first, second = (circuit(ds, seed, r, "global", client, label) for r in rounds)
    title = f"{names(ds)[label]}, client {client}, seed {seed}: global circuit in two rounds"
    return [overlay(first, second, (f"round {rounds[0]}", f"round {rounds[1]}"), title)]


def fig13(runs: Runs) -> list[Figure]:
    """IID: one client's local circuit and the one found on the global model with its data."""
    ds = runs["iid"]
    seed, (round_,), (client,), label = _place(ds, 1, 1)
    first, second = (circuit(ds, seed, round_, origin, client, label) for origin in ("local", "global"))
    title = f"{names(ds)[label]}, client {client}, round {round_}, seed {seed}: local against global circuit"
    return [overlay(first, second, ("local", "global"), title)]


def chosen(ds: xr.Dataset, place: Mapping[str, int | None]) -> list[Figure]:
    """The circuit of a client, class and round that you choose: found on its own model, and on the global one.

    place: seed, client, class and round, None for what is not chosen: the first seed, the last round, and the first
    client and class in it that have a circuit.
    """
    there = held(ds)
    for dim, label in place.items():
        if label is not None and label not in ds[dim].values:
            known = " ".join(map(str, ds[dim].values.tolist()))
            raise FedmiError(f"{dim}: there is no {label} in this run; there are {known}")
    at = {"seed": place["seed"], "round": place["round"]}
    usual = {"seed": ds["seed"].values[0].item(), "round": ds["round"].values[-1].item()}
    at = {dim: usual[dim] if label is None else label for dim, label in at.items()}
    open_ = there.sel(at).transpose("client", "class")
    open_ = open_.where(open_["client"] == place["client"], False) if place["client"] is not None else open_
    open_ = open_.where(open_["class"] == place["class"], False) if place["class"] is not None else open_
    found = np.argwhere(open_.values.astype(bool))
    if not len(found):
        said = ", ".join(f"{dim} {label}" for dim, label in place.items() if label is not None)
        raise FedmiError(f"there is no circuit of {said}; that client does not analyse the class, or sat the round out")
    client, label = (ds[dim].values[i].item() for dim, i in zip(("client", "class"), found[0], strict=True))
    first, second = (circuit(ds, at["seed"], at["round"], origin, client, label) for origin in ("local", "global"))
    title = f"{names(ds)[label]}, client {client}, round {at['round']}, seed {at['seed']}: local against global circuit"
    return [overlay(first, second, ("local", "global"), title)]
