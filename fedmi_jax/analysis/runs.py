"""Which experiment of the paper a result is, and one dataset per experiment out of many folders.

Axes: S seeds, K clients, C classes.

An experiment is recognised by who analyses which classes of which images, not by its name, so that imported files and
renamed runs are found too. Several results of one experiment are its seeds: they are joined when nothing else differs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from fedmi_jax import config
from fedmi_jax.config import Experiment, flat
from fedmi_jax.data.identity import MNIST, ImageSet
from fedmi_jax.errors import FedmiError
from fedmi_jax.presets import PRESETS
from fedmi_jax.results import store
from fedmi_jax.results.schema import fill

ABLATION = "sparsity-ablation"
KINDS = ("iid", "one-class", "two-class", "three-class", "shared-class", ABLATION)
"""The paper's experiments (METHOD: section 3)."""
_ABLATION_MAP = [{0, 1}, {2, 3}, {4, 5}]
_FREE = (
    "name", "seeds", "execution", "evaluation.batch_size", "evaluation.null_samples", "discovery.repeat",
    "data.data_dir", "data.file",
)  # fmt: skip
"""Settings in which the seeds of one experiment may differ."""
_COMMON = ("data", "local", "aggregation", "method", "participation", "discovery", "sparsity.scope", "sparsity.floor",
           "sparsity.linear")  # fmt: skip
"""Settings in which the experiments of one table must agree."""
_OWN = (*_FREE, "discovery.classes", "discovery.negatives")
"""But for these."""
_OF_LEVELS = ("evaluation.images_per_class",)
"""In which the levels of an ablation must agree besides, as in the number of rounds."""

_Loaded = list[tuple[Path, xr.Dataset]]
"""Results, each with its place."""

Runs = Mapping[str, xr.Dataset]
"""One dataset per experiment: its kind, or sparsity-ablation-LEVEL; of other experiments the name. Where circuits were
searched with another objective than the paper's, it stands behind the name. Where runs that are pruned otherwise than
the paper's are beside these, that stands behind their kind."""


def kind(ds: xr.Dataset) -> str | None:
    """Which of `KINDS` this is, with the level for an ablation (sparsity-ablation-0.95); None: none of them."""
    return None if _foreign(ds) else _by_classes(ds)


def _foreign(ds: xr.Dataset) -> ImageSet | None:
    """The result's images, where they are not the paper's."""
    images = store.images(ds)
    return None if images is None or images.is_same(MNIST) else images


def _by_classes(ds: xr.Dataset) -> str | None:
    held = [{int(c) for c in ds["class"].values[row]} for row in ds["analysed"].isel(seed=0).values.astype(bool)]
    split = (settings(ds) or {}).get("split", {}).get("kind")
    if len(held) < 2 or split in _DRAWN:
        return None
    if all(own == held[0] for own in held):
        return "iid" if len(held[0]) > 1 and split in (None, "iid") else None
    shared = set.intersection(*held)
    own = [classes - shared for classes in held]
    if len(set().union(*own)) < sum(map(len, own)) or len(set(map(len, own))) > 1:
        return None  # some classes are held by a few clients, or by uneven numbers
    if shared:
        return "shared-class" if len(shared) == 1 else None
    if held == _ABLATION_MAP:
        return _ablation(ds)
    return {1: "one-class", 2: "two-class", 3: "three-class"}.get(len(own[0]))


def _ablation(ds: xr.Dataset) -> str:
    known, name = settings(ds), str(ds.attrs.get("name", ""))
    if known is not None:
        return f"{ABLATION}-{known['sparsity']['target']:g}"
    said = re.match(rf"{ABLATION}-(0(?:\.\d+)?)(?!\d)", name)  # an imported file knows its level by its name only
    return f"{ABLATION}-{float(said[1]):g}" if said else "two-class"


def pruned_otherwise(ds: xr.Dataset) -> str:
    """How a result of one of the paper's experiments is pruned otherwise than there, to stand behind its name, as in
    two-class-0-linear-0.995; empty: as there, or not known."""
    sparsity, name = (settings(ds) or {}).get("sparsity"), kind(ds)
    if sparsity is None or name is None:
        return ""
    target, linear = sparsity["target"], sparsity["linear"]
    level = "" if target == paper(name).sparsity.target or is_a(name, (ABLATION,)) else f"-{target:g}"
    return level + ("" if linear is None else f"-linear-{linear:g}")


def settings(ds: xr.Dataset) -> dict[str, Any] | None:
    """The experiment's settings as nested dicts, and the method's name, which may be one of the user's own; None for
    an imported file, which does not know them."""
    if "config" not in ds.attrs:
        return None
    known = config.to_dict(config.from_json(ds.attrs["config"]))
    return known | {"method": str(ds.attrs.get("method", known["aggregation"]["kind"]))}


def objective(ds: xr.Dataset) -> str:
    """Of the search that found the circuits; the paper's, "class", of imported files."""
    return str((settings(ds) or {}).get("discovery", {}).get("objective", "class"))


def is_a(name: str, kinds: Iterable[str]) -> bool:
    """Whether the dataset of this name in `Runs` is one of these kinds of experiment."""
    return name in kinds or (ABLATION in kinds and re.fullmatch(rf"{ABLATION}-\d[\d.e-]*", name) is not None)


def sparsity_level(name: str) -> float:
    """Of an ablation's name."""
    return float(name.removeprefix(f"{ABLATION}-"))


def levels(runs: Runs) -> list[str]:
    """The ablation's names, the least sparse first."""
    return sorted((name for name in runs if is_a(name, (ABLATION,))), key=sparsity_level)


def place(name: str) -> tuple[int, str]:
    """To sort names of `Runs` by, in the paper's order; what it does not have comes last."""
    return next((i for i, kind in enumerate(KINDS) if name.startswith(kind)), len(KINDS)), name


def paper(name: str) -> Experiment:
    """What the paper ran under this name of `Runs`; of a level that it does not have, the sparsest one."""
    return PRESETS.get(name, PRESETS[f"{ABLATION}-0.995"]).experiments[0]


def differences(name: str, ds: xr.Dataset) -> list[str]:
    """In what a run is not what the paper ran, as `field value (the paper's)`: its images and its settings. Of an
    imported file the number of rounds is all that is known. A run that is none of the paper's experiments is compared
    by its images only."""
    foreign, name = _foreign(ds), name.removesuffix(pruned_otherwise(ds))
    images = [f"dataset {foreign} ({MNIST.name})"] if foreign else []
    if not is_a(name, KINDS):
        return images
    own, theirs = flat(settings(ds) or {}), flat(config.to_dict(paper(name)) | {"method": "fedavg"})
    own |= {"rounds": ds.sizes["round"]}
    return images + [
        f"{field} {_short(own[field])} ({_short(theirs[field])})"
        for field in theirs
        if field in own and own[field] != theirs[field] and not _within(field, _FREE)
    ]


def find(folders: Iterable[Path]) -> list[Path]:
    """Every result in these run folders, files, or folders that hold runs at any depth, each once, links followed.
    Raises FedmiError for none."""
    found: dict[Path, Path] = {}  # by where it really is
    for folder in folders:
        below = sorted(_below(folder)) if folder.is_dir() else [folder]
        if not below:
            raise FedmiError(f"{folder}: no such result; give a folder that holds {store.FILE}, at any depth")
        for path in below:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _below(folder: Path) -> Iterator[Path]:
    """Every folder is entered once, for links may lead around in a circle."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        if store.FILE in names:
            yield Path(place) / store.FILE


def gather(folders: Iterable[Path], *, paper_only: bool = False) -> dict[str, xr.Dataset]:
    """One dataset per experiment, the seeds of all its results joined.

    paper_only: refuse what is none of the paper's experiments, and experiments whose settings do not belong in one
    table, and leave out what was searched with another objective. Raises FedmiError, in one line with the files, for
    these and for results of one experiment that differ in more than their seeds.
    """
    return sort_out(load(folders), paper_only=paper_only)


def load(folders: Iterable[Path]) -> list[tuple[Path, xr.Dataset]]:
    """Every result in these folders, with its place. Raises FedmiError as `find`, and for what is no result."""
    return [(path, store.load(path)) for path in find(folders)]


def sort_out(loaded: Iterable[tuple[Path, xr.Dataset]], *, paper_only: bool = False) -> dict[str, xr.Dataset]:
    """`gather`, of results that are loaded already."""
    groups: dict[str, _Loaded] = {}
    for path, ds in loaded:
        name, search = kind(ds), objective(ds)
        if name is None and paper_only:
            raise FedmiError(f"{path}: {not_the_papers(ds)}; leave it out")
        if search == "class":
            groups.setdefault(name or _other(ds, path), []).append((path, ds))
        elif not paper_only:
            groups.setdefault(f"{name or _other(ds, path)}-{search}", []).append((path, ds))
    if not paper_only:
        groups = dict(_pruned_alike(groups))
    if paper_only:
        firsts = [group[0] for group in groups.values()]
        for other in firsts[1:]:
            _require_same(firsts[0], other, lambda field: not _within(field, _COMMON) or _within(field, _OWN))
        _require_comparable([group[0] for name, group in groups.items() if is_a(name, (ABLATION,))])
    return {name: joined(group) for name, group in groups.items()}


def _pruned_alike(groups: Mapping[str, _Loaded]) -> Iterator[tuple[str, _Loaded]]:
    """Each group as it is, or where its results are not pruned alike, those that are as in the paper and every other
    by itself."""
    for name, group in groups.items():
        ways: dict[str, _Loaded] = {}
        for path, ds in group:
            ways.setdefault(pruned_otherwise(ds), []).append((path, ds))
        for way, alike in sorted(ways.items(), key=lambda pair: pair[0]):
            yield name if len(ways) == 1 else _with(name, way, alike[0][1]), alike


def _with(name: str, way: str, ds: xr.Dataset) -> str:
    """The name with how the results are pruned, before what they were searched with."""
    search = "" if objective(ds) == "class" else f"-{objective(ds)}"
    return name.removesuffix(search) + way + search


def not_the_papers(ds: xr.Dataset) -> str:
    """Why a result is none of the paper's experiments."""
    foreign = _foreign(ds)
    if foreign:
        return f"its images are {foreign}, not {MNIST}"
    return "its clients' classes are none of the paper's experiments"


def _other(ds: xr.Dataset, path: Path) -> str:
    """A name that can be part of a file's and is taken for none of the paper's experiments."""
    name, foreign = str(ds.attrs.get("name", path.parent.name)), _foreign(ds)
    if name.startswith(KINDS):
        name = f"{name}-on-{foreign.name}" if foreign else f"other-{name}"
    return re.sub(r"[^\w.+-]+", "-", name)


def _require_comparable(levels: _Loaded) -> None:
    for (a, one), (b, two) in ((levels[0], other) for other in levels[1:]):
        _require_same((a, one), (b, two), lambda field: field not in _OF_LEVELS)
        x, y = one.sizes["round"], two.sizes["round"]
        if x != y:
            raise FedmiError(f"{b}: {y} rounds, but {x} in {a}; levels of one ablation need as many")


def joined(group: _Loaded) -> xr.Dataset:
    """Results of one experiment as one, along `seed`, with the variables, and as many random masks, as all have."""
    for other in group[1:]:
        _require_same_images(group[0], other)
        _require_same(group[0], other, lambda field: _within(field, _FREE))
        _require_joinable(group[0], other)
    if len(group) == 1:
        return group[0][1]
    common = set.intersection(*({str(name) for name in ds} for _, ds in group))
    masks = min(ds.sizes.get("sample", 0) for _, ds in group)
    parts = [ds[sorted(common)].isel(sample=slice(masks), missing_dims="ignore") for _, ds in group]
    whole = xr.concat(_of_all_classes(parts), "seed", data_vars="all", join="exact", combine_attrs="override")
    return whole.sortby("seed")


def _of_all_classes(parts: list[xr.Dataset]) -> list[xr.Dataset]:
    """The results with the classes that any of them analyses; a class is filled in where nobody analyses it."""
    labels = sorted({c for ds in parts for c in ds["class"].values.tolist()})
    if all(ds["class"].values.tolist() == labels for ds in parts):
        return parts
    names: dict[int, str] = {}
    for ds in parts:
        names |= dict(zip(ds["class"].values.tolist(), ds["class_name"].values.tolist(), strict=True))
    found = []
    for ds in parts:
        dims = {dim: labels for dim in ("class", "other_class") if dim in ds.dims}
        fills = {str(name): fill(values.dtype) for name, values in ds.variables.items() if values.dtype.kind != "O"}
        said = ("class", [names[c] for c in labels], ds["class_name"].attrs)
        found.append(ds.drop_vars("class_name").reindex(dims, fill_value=fills).assign_coords(class_name=said))
    return found


def _require_same_images(first: tuple[Path, xr.Dataset], other: tuple[Path, xr.Dataset]) -> None:
    """Else the second is refused. An imported file does not say what its images are."""
    (a, one), (b, two) = first, other
    x, y = store.images(one), store.images(two)
    if x and y and not x.is_same(y):
        raise FedmiError(f"{b}: its images are {y}, but those of {a} are {x}; give one of the two")


_DRAWN = ("dirichlet", "classes-per-client", "shards")
"""Kinds of split that draw, with the seed, which classes a client holds."""


def _require_joinable(first: tuple[Path, xr.Dataset], other: tuple[Path, xr.Dataset]) -> None:
    """Else the second is refused. Which classes are analysed may differ where each seed draws them."""
    (a, one), (b, two) = first, other
    drawn = (settings(one) or {}).get("split", {}).get("kind") in _DRAWN
    for dim in ("client", "round") if drawn else ("class", "client", "round"):
        x, y = (ds[dim].values.tolist() for ds in (one, two))
        if x != y:
            raise FedmiError(f"{b}: other {dim} labels than {a} ({_short(y)} against {_short(x)}); give one of the two")
    twice = set(one["seed"].values.tolist()) & set(two["seed"].values.tolist())
    if twice:
        raise FedmiError(f"{b}: seed {min(twice)} of this experiment is in {a} too; give one of the two")
    if not drawn and not (one["analysed"].isel(seed=0).values == two["analysed"].isel(seed=0).values).all():
        raise FedmiError(f"{b}: its clients analyse other classes than in {a}; give one of the two")


def _require_same(first: tuple[Path, xr.Dataset], other: tuple[Path, xr.Dataset], may_differ: Any) -> None:
    (a, one), (b, two) = first, other
    x, y = settings(one), settings(two)
    if x is None or y is None:
        if (x is None) != (y is None):
            raise FedmiError(f"{b} and {a}: one is a run, the other an imported file; judge them in separate calls")
        return
    before, after = flat(x), flat(y)
    for field in before:
        if before[field] != after.get(field) and not may_differ(field):
            values = f"{_short(after.get(field))} against {_short(before[field])}"
            raise FedmiError(f"{b}: {field} differs from {a} ({values}); such runs do not belong in one table")


def _within(field: str, sections: tuple[str, ...]) -> bool:
    return any(field == s or field.startswith(f"{s}.") for s in sections)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
