"""Two figures: is accuracy bought with circuits, and when do clients agree on what they keep?

Axes: S seeds, R rounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.methods import rows, told
from experiments.methods.measured import Points
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = {
    "kept": "channels kept, paper's search",
    "cross-evaluation": "cross-evaluation, paper's search",
    "decision": "decision accuracy, second search",
}
"""What stands for circuits kept."""
OVER_ROUNDS = ("support ratio", "sign conflict")
SHOWN = ("fedavg", "support-mean", "owner-channels", "ties")
LAYERS = (*CONV_LAYERS, "fc")
POINT = (
    "last round, a point for each method and seed; hollow: accuracy on a client's own classes with the model that it "
    "is given, not to be compared with the others; grey lines: means of FedAvg"
)
LINE = (
    "means over seeds, and a thin line for each; support ratio: share of weights that any client keeps over the mean "
    "share that one keeps; sign conflict: of weights that two clients or more keep, the share with both signs"
)


def draw(points: Points, folder: Path) -> list[Path]:
    """Both figures of what is there."""
    with style.styled():
        made = {"accuracy-and-circuits": accuracy_and_circuits(points), "agreement": agreement(points)}
        return [style.save(figure, folder / f"{name}.svg") for name, figure in made.items()]


def accuracy_and_circuits(points: Points) -> Figure:
    """A row for each scenario: accuracy on held classes against circuits kept, a point for each method and seed. Of
    methods that give every client a model of its own, accuracy on its own classes."""
    scenarios = _scenarios(points)
    figure, axes = style.grid(len(scenarios) * len(ACROSS), len(ACROSS), 2.0, share=False)
    for i, one in enumerate(axes):
        scenario, measure = scenarios[i // len(ACROSS)], list(ACROSS)[i % len(ACROSS)]
        for name in (name for name in told.there(points, scenario) if name in rows.METHODS):
            _scatter(one, points, scenario, name, measure)
        one.set_xlabel(ACROSS[measure])
        one.set_ylabel("accuracy, held classes")
        one.set_title(scenario)
        one.set_ylim(-0.03, 1.03)
    style.legend(figure, axes)
    style.say(figure, POINT)
    return figure


def _scatter(axes: Axes, points: Points, scenario: str, name: str, measure: str) -> None:
    own = told.own_models(name)
    x = told.per_seed(points, scenario, name, measure)
    y = told.per_seed(points, scenario, name, told.accuracy_of(name))
    both = x["seed"].values[np.isin(x["seed"].values, y["seed"].values)]
    colour, marker = (style.BLACK, "*") if name == rows.BASE else style.look(list(rows.METHODS).index(name))
    x, y = x.sel(seed=both), y.sel(seed=both)
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        mfc="none" if own else colour,
        ms=5 if name == rows.BASE else 3.2,
        mew=0.7,
        ls="none",
        label=name,
    )
    if name == rows.BASE and both.size:
        axes.axhline(float(y.mean()), color=style.NULL, lw=0.5, zorder=0)
        axes.axvline(float(x.mean()), color=style.NULL, lw=0.5, zorder=0)


def agreement(points: Points) -> Figure:
    """Two rows for each scenario, a column for each layer: support ratio and sign conflict over rounds."""
    places = [
        (scenario, measure, layer) for scenario in _scenarios(points) for measure in OVER_ROUNDS for layer in LAYERS
    ]
    figure, axes = style.grid(len(places), len(LAYERS), 1.3, share=False)
    for one, (scenario, measure, layer) in zip(axes, places, strict=True):
        for name in SHOWN:
            _lines(one, points, (scenario, name, f"{measure}, {layer}"))
        if measure == "sign conflict":  # a share: none is no line in the middle of negative ones
            one.set_ylim(-0.005, max(0.1, one.get_ylim()[1]))
        one.set_title(f"{scenario}, {layer}")
        if layer == LAYERS[0]:
            one.set_ylabel(measure)
        one.set_xlabel("round")
        one.locator_params("x", integer=True)
    style.legend(figure, axes)
    style.say(figure, LINE)
    return figure


def _lines(axes: Axes, points: Points, place: tuple[str, str, str]) -> None:
    values = told.by_round(points, *place)
    if not values.size:
        return
    colour, marker = style.look(SHOWN.index(place[1]))
    rounds = values["round"].values
    for seed in values["seed"].values:
        axes.plot(rounds, values.sel(seed=seed), color=colour, lw=0.4, alpha=0.6)
    axes.plot(rounds, values.mean("seed"), marker=marker, ms=2.4, color=colour, label=place[1])


def _scenarios(points: Points) -> list[str]:
    return [scenario for scenario in rows.SCENARIOS if told.there(points, scenario)]
