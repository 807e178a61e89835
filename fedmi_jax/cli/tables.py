"""Summaries as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from fedmi_jax.errors import printable
from fedmi_jax.results.schema import ORIGINS
from fedmi_jax.results.similarity import MEASURES
from fedmi_jax.results.summary import _AVERAGES


def render(short: dict[str, Any]) -> Group:
    """A `summary` as tables for the terminal; shares in percent there."""
    title = f"{shown(short['name'])}: {short['rounds']} rounds, {short['clients']} clients, seeds {short['seeds']}"
    title += f", images of {shown(short['dataset']['name'])}" if short["dataset"] else ""
    return Group(_figures(short, title), _similarity_table(short), *_cross_table(short["cross_evaluation"]))


def shown(name: str) -> str:
    """A name out of a file, as itself in a terminal: neither markup nor control characters."""
    return escape(printable(name))


def print_summary(short: dict[str, Any], console: Console | None = None) -> None:
    """Print a `summary` as tables."""
    (console or Console()).print(render(short))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _layers(short: dict[str, Any]) -> list[str]:
    """The result's convolutions."""
    return list(next(iter(short["circuit_size"].values())))


_OTHER = (
    "cross evaluation: a local circuit's mask on the global model, and the reverse; drift gap: what the circuit found "
    "on that model reaches beyond it"
)


def _figures(short: dict[str, Any], title: str) -> Table:
    """What has one figure per origin."""
    table = Table(
        "last round", "local circuits", "global circuits", title=title, title_justify="left", caption=_OTHER,
        caption_justify="left",
    )  # fmt: skip
    table.add_row("global model: accuracy", "", _percent(short["global_accuracy"]))
    for name in ("degenerate_share", *_AVERAGES):
        if name in short:
            table.add_row(name.replace("_", " "), *(_percent(short[name].get(origin)) for origin in ORIGINS))
    sizes = [short["circuit_size"].get(origin, {}).values() for origin in ORIGINS]
    cells = [" / ".join("-" if v is None else f"{v:.1f}" for v in layers) for layers in sizes]
    table.add_row(f"channels, {' / '.join(_layers(short))}", *cells)
    return table


def _similarity_table(short: dict[str, Any]) -> Table:
    """IoU per layer; beside it the share of pairs that were both empty, which count as 1.0."""
    table = Table("IoU, last round", "circuits", *_layers(short), "both empty, %", title_justify="left")
    for name in MEASURES:
        by_origin, shares = short.get(name, {}), short["empty_pairs"].get(name, {})
        if name == "local_global_iou":
            by_origin, shares = {"both": by_origin}, {"both": shares}
        for origin, layers in by_origin.items():
            if any(value is not None for value in layers.values()):
                cells = (_ratio(layers.get(layer)) for layer in _layers(short))
                empty = " / ".join(f"{100 * (share or 0):.0f}" for share in shares.get(origin, {}).values())
                table.add_row(name.removesuffix("_iou").replace("_", " "), origin, *cells, empty)
    return table


_SHOWN_CLIENTS = 20


def _cross_table(cross: dict[str, Any]) -> list[Table | str]:
    """Local circuits on the global model: one row per client, as long as that is readable."""
    if not cross:
        return []
    mean, last = _percent(cross["mean"]), _percent(cross["last_round"])
    line = f"cross-evaluation of local circuits on the global model: {mean} over all rounds, {last} in the last"
    clients = cross["per_client_and_class"]
    if len(clients) > _SHOWN_CLIENTS:
        return [line]
    marked = {client: set(classes) for client, classes in cross["degenerate"].items()}
    caption = "○ degenerate: no channel in some layer, so the answer cannot depend on the image" if marked else None
    table = Table("client", "cross-evaluation per class, last round", caption=caption, caption_justify="left")
    for client, classes in clients.items():
        cells = (
            f"{shown(name)}: {_percent(value)}{' ○' if name in marked.get(client, ()) else ''}"
            for name, value in classes.items()
        )
        table.add_row(client, "   ".join(cells))
    return [line, table]
