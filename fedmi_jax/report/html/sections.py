"""What a report says of its results in tables: in short, who holds what, how they were made."""

from __future__ import annotations

import json
from typing import Any
from xml.etree.ElementTree import Element

import xarray as xr

from fedmi_jax import config
from fedmi_jax.analysis.runs import Runs
from fedmi_jax.report.html.elements import el, table
from fedmi_jax.results import store, summary, worth
from fedmi_jax.results.labels import class_names, held

MOST = 60
"""Clients, or classes, of one table."""


def at_a_glance(runs: Runs) -> Element:
    """One row per experiment; figures of the last round, the mean over seeds."""
    head = ("experiment", "seeds", "rounds", "clients", "images", "accuracy of the global model",
            "of local circuits there", "degenerate circuits")  # fmt: skip
    return table(head, [_glance(name, summary.summary(ds)) for name, ds in runs.items()], class_="glance",
                 caption="Every experiment, in the last round")  # fmt: skip


def _glance(name: str, short: dict[str, Any]) -> list[str]:
    images = short["dataset"]["name"] if short["dataset"] else "not known"
    accuracy = short.get("global_held_accuracy")
    of = " of held classes" if accuracy is not None else ""
    accuracy = short["global_accuracy"] if accuracy is None else accuracy
    cross = short["cross_evaluation"].get("last_round")
    empty = short["degenerate_share"]
    shares = " / ".join(_percent(empty.get(origin)) for origin in ("local", "global"))
    return [name, ", ".join(map(str, short["seeds"])), str(short["rounds"]), str(short["clients"]), images,
            _percent(accuracy) + of, _percent(cross), f"{shares} (local / global)"]  # fmt: skip


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


# --- who holds what ---


def partitions(runs: Runs) -> list[Element]:
    """A table for every experiment that says who holds what."""
    return [element for name, ds in runs.items() for element in partition(name, ds)]


def partition(name: str, ds: xr.Dataset) -> list[Element]:
    """Training images of every client and class, in the first seed; empty where the result does not say it."""
    if "samples" not in ds:
        return []
    counts = ds["samples"].isel(seed=0).transpose("client", "true_class").values
    clients, classes = ds["client"].values[:MOST].tolist(), [*class_names(ds, "true_class").values()][:MOST]
    rows = [
        [f"client {k}", *(_share(n, counts.max()) for n in own[:MOST].tolist()), f"{own.sum():,}"]
        for k, own in zip(clients, counts, strict=False)
    ]
    found: list[Element] = [table(["", *classes, "all"], rows, f"{name}: training images", class_="partition")]
    notes = _cut(counts.shape) + (["seed " + str(ds["seed"].values[0])] if _differs(ds["samples"]) else [])
    return [*found, el("p", "; ".join(notes), class_="legend")] if notes else found


def _share(count: int, most: int) -> Element:
    return el("td", f"{count:,}" if count else "·", style=f"--share: {count / max(most, 1):.3f}")


def _cut(shape: tuple[int, ...]) -> list[str]:
    whole = zip(shape, ("clients", "classes"), strict=True)
    return [f"the first {MOST} of {size} {what}" for size, what in whole if size > MOST]


def _differs(samples: xr.DataArray) -> bool:
    return bool((samples != samples.isel(seed=0)).any())


# --- how they were made ---


def made(name: str, ds: xr.Dataset) -> Element:
    """Settings, images and versions of one experiment."""
    parts = [_settings(ds), _images(ds), _versions(ds)]
    return el("details", el("summary", name), *(part for part in parts if part is not None), class_="made")


def _settings(ds: xr.Dataset) -> Element:
    if "config" not in ds.attrs:
        return el("p", "An imported file: its settings are not known.", class_="note")
    values = config.flat(config.to_dict(config.from_json(ds.attrs["config"])))
    changed = worth.settings(ds)["changed"]
    if ds.sizes["seed"] > 1:
        values["seeds"] = ds["seed"].values.tolist()
    rows = [
        [el("code", field), _value(value), _value(changed[field]["preset"]) if field in changed else ""]
        for field, value in values.items()
    ]
    return table(("setting", "value", "the preset's, where it is another"), rows, "Configuration", class_="settings")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _images(ds: xr.Dataset) -> Element:
    found = store.images(ds)
    if found is None:
        return el("p", "Its images are not known.", class_="note")
    facts = {
        "name": found.name,
        "height, width, channels": _value(list(found.image_shape)) if found.image_shape else "not known",
        "training and test images": f"{found.training_images} and {found.test_images}",
        "SHA-256": found.sha256 or "not known",
    }
    return table(("images", ""), facts.items(), "Images", class_="settings")


def _versions(ds: xr.Dataset) -> Element | None:
    known = {
        "made by": str(ds.attrs.get("created_by", "not known")),
        "schema": str(ds.attrs.get("schema_version", "?")),
    }
    try:
        known |= {str(k): str(v) for k, v in json.loads(ds.attrs.get("versions", "{}")).items()}
    except (ValueError, AttributeError):  # no JSON object: not written by this package
        known["versions"] = "not readable"
    return table(("package", "version"), known.items(), "Versions", class_="settings")


def shape(runs: Runs) -> str:
    """In one sentence what the results are, for the head of the page."""
    seeds = len({int(s) for ds in runs.values() for s in ds["seed"].values})
    circuits = sum(ds.sizes["origin"] * int(held(ds).sum()) for ds in runs.values())
    return f"{_many(len(runs), 'experiment')}, {_many(seeds, 'seed')}, {circuits:,} circuits."


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
