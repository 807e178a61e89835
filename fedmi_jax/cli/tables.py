"""Summaries as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from fedmi_jax.cli import terminal
from fedmi_jax.errors import printable
from fedmi_jax.results.schema import ORIGINS, VARIABLES
from fedmi_jax.results.similarity import MEASURES
from fedmi_jax.results.summary import _AVERAGES


def render(short: dict[str, Any]) -> Group:
    """A `summary` as tables for the terminal; shares in percent there."""
    rounds, clients = (f"{short[name]} {name if short[name] > 1 else name[:-1]}" for name in ("rounds", "clients"))
    title = f"{shown(short['name'])}: {rounds}, {clients}, seeds {short['seeds']}"
    title += f", images of {shown(short['dataset']['name'])}" if short["dataset"] else ""
    lines = [f"[bold]{title}[/]", *_settings(short), _sureness(short)]
    cross = _cross_table(short["cross_evaluation"], short["intervals"].get("cross_evaluation"))
    return Group(*lines, _figures(short), _similarity_table(short), *cross)


def _settings(short: dict[str, Any]) -> list[str]:
    """In what the run is unlike the preset of its name."""
    if short["preset"] is None:
        return []
    unlike = [f"{field} {_brief(own['value'])} ({_brief(own['preset'])})" for field, own in short["changed"].items()]
    but = f", but (the preset's value in brackets): {', '.join(unlike)}" if unlike else ""
    return [f"settings: the preset {short['preset']}{escape(but)}"]


def _brief(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 40 else text[:37] + "..."


def _sureness(short: dict[str, Any]) -> str:
    if len(short["seeds"]) < 2:
        return "one seed: nothing is known about how sure these numbers are"
    return escape("in brackets: 95 % interval of the mean over the seeds (bootstrap, too narrow for few seeds)")


def shown(name: str) -> str:
    """A name out of a file, as itself in a terminal: neither markup nor control characters."""
    return escape(printable(name))


def print_summary(short: dict[str, Any], console: Console | None = None) -> None:
    """Print a `summary` as tables."""
    (console or terminal.console()).print(render(short))


def _percent(value: float | None, interval: dict[str, Any] | None = None) -> str:
    """With its interval over seeds, where it has one."""
    return "-" if value is None else f"{100 * value:z.1f} %{_limits(interval)}"


def _nats(value: float | None, interval: dict[str, Any] | None = None) -> str:
    """As `_percent`."""
    if value is None:
        return "-"
    limits = "" if not interval or interval["low"] is None else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{value:.3f} nat{escape(limits)}"


def _limits(interval: dict[str, Any] | None) -> str:
    if not interval or interval["low"] is None:
        return ""
    return escape(f" [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]")


def _points(difference: dict[str, Any]) -> str:
    """A difference of two shares, in percentage points."""
    mean = difference["mean"]
    return "-" if mean is None else f"{100 * mean:+z.1f}{_limits(difference)}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _layers(short: dict[str, Any]) -> list[str]:
    """The result's convolutions."""
    return list(next(iter(short["circuit_size"].values())))


_OTHER = (
    "cross evaluation: a local circuit's mask on the global model, and the reverse; drift gap: what the circuit found "
    "on that model reaches beyond it"
)


def _figures(short: dict[str, Any]) -> Table:
    """What has one figure per origin."""
    table = terminal.table(
        "last round", "local circuits", "global circuits", caption=_OTHER, caption_justify="left"
    )  # fmt: skip
    known = short["intervals"]
    for name, said in (("held_accuracy", "classes that are held"), ("accuracy", "all classes")):
        own = [f"{origin}_{name}" for origin in ORIGINS]
        cells = [_percent(short.get(key), known.get(key)) for key in own]
        table.add_row(f"the model itself: accuracy, {said}", *cells)
    some = ("undefined_share",) if any(short["undefined_share"].values()) else ()
    for name in ("degenerate_share", *some, *_AVERAGES):
        values = [short.get(name, {}).get(origin) for origin in ORIGINS]
        if any(value is not None for value in values):
            say = _nats if name in VARIABLES and VARIABLES[name].units == "nat" else _percent
            cells = (say(value, known.get(name, {}).get(o)) for o, value in zip(ORIGINS, values, strict=True))
            table.add_row(name.replace("_", " "), *cells)
    for row in _beyond(short["beyond_control"]):
        table.add_row(*row)
    sizes = [short["circuit_size"].get(origin, {}).values() for origin in ORIGINS]
    cells = [" / ".join("-" if v is None else f"{v:.1f}" for v in layers) for layers in sizes]
    table.add_row(f"channels, {' / '.join(_layers(short))}", *cells)
    return table


def _beyond(beyond: dict[str, Any]) -> list[list[str]]:
    """Whether circuits do better than masks that know nothing, in percentage points."""
    masks = "that of random masks as large" if beyond["control"] == "random masks" else "that of the empty mask"
    return [
        [f"{name.replace('_', ' ')} minus {masks}", *(_points(beyond[name][origin]) for origin in ORIGINS)]
        for name in ("sufficiency", "cross_evaluation")
        if name in beyond and any(beyond[name][origin]["mean"] is not None for origin in ORIGINS)
    ]


def _similarity_table(short: dict[str, Any]) -> Table:
    """IoU per layer; beside it the share of pairs that were both empty, which count as 1.0."""
    table = terminal.table("IoU, last round", "circuits", *_layers(short), "both empty, %")
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


def _cross_table(cross: dict[str, Any], interval: dict[str, Any] | None) -> list[Table | str]:
    """Local circuits on the global model: one row per client, as long as that is readable."""
    if not cross:
        return []
    mean, last = _percent(cross["mean"]), _percent(cross["last_round"], interval)
    line = f"cross-evaluation of local circuits on the global model: {mean} over all rounds, {last} in the last"
    clients = cross["per_client_and_class"]
    if len(clients) > _SHOWN_CLIENTS:
        return [line]
    constant, nothing = (
        {(client, name) for client, classes in cross[kind].items() for name in classes}
        for kind in ("degenerate", "undefined")
    )
    said = ["* degenerate: no channel in some layer, so the answer cannot depend on the image"] if constant else []
    said += ["undefined: the model decides nothing about the class, so there is no circuit"] if nothing else []
    caption = "\n".join(said) or None
    table = terminal.table("client", "cross-evaluation per class, last round", caption=caption, caption_justify="left")
    for client, classes in clients.items():
        cells = (
            f"{shown(name)}: {'undefined' if (client, name) in nothing else _percent(value)}"
            f"{' *' if (client, name) in constant else ''}"
            for name, value in classes.items()
        )
        table.add_row(client, "   ".join(cells))
    return [line, table]
