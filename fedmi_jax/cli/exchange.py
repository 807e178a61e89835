"""`fedmi import` and `fedmi export`: results from the paper's authors, and for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from fedmi_jax.cli.run import require_writable
from fedmi_jax.devices import require_jax
from fedmi_jax.errors import ConfigError, say
from fedmi_jax.results import authors, authors_log, authors_weights, store


@dataclass(frozen=True)
class Import:
    """Turn a results file of the paper's authors into a result."""

    file: Positional[Path]
    """FILE.json or FILE.json.gz."""
    out: Path
    channels: tuple[int, ...] = (32, 64, 128)
    """Of each convolution of its network, which the file does not say."""
    log: Path | None = None
    """The run's training_log.txt: accuracy of the global model, which the file does not have."""
    weights: Path | None = None
    """The run's folder of round_N/client_K_model.pt and checkpoint_round_N.pt (extra [reference])."""


@dataclass(frozen=True)
class Export:
    """Write a result in the schema of the paper's authors, or as a CSV table."""

    folder: Positional[Path]
    """Folder of a run; with --csv also one that holds runs at any depth."""
    out: Path
    """FILE.json or FILE.json.gz; with --pt a folder; with --csv FILE.csv or FILE.csv.gz."""
    seed: int | None = None
    """Which seed, where the result has several."""
    pt: bool = False
    """All models too, as the authors' round_N/client_K_model.pt and checkpoint_round_N.pt (extra [reference])."""
    csv: bool = False
    """A long table instead: run, variable, every label, value, units."""
    variable: tuple[str, ...] = ()
    """With --csv: these variables only; none given: every measure, without what is along channels or weights."""


def import_(option: Import) -> int:
    require_jax()
    from fedmi_jax.federation import resumable

    store.refuse_taken(option.out)
    resumable.refuse(option.out)
    require_writable(option.out)
    result = authors.import_authors(option.file, channels=option.channels)
    if option.log is not None:
        result = authors_log.with_log(result, option.log)
    if option.weights is not None:
        result = authors_weights.with_weights(result, option.weights)
    print(store.save(result, option.out))
    return 0


def export(option: Export) -> int:
    if option.csv:
        return _export_csv(option)
    if option.variable:
        raise ConfigError("variable: only with --csv; the authors' schema says itself what is in it")
    write = authors_weights.export_weights if option.pt else authors.export_authors
    result = store.load(option.folder)
    print(write(result, option.out, option.seed))
    if "served_accuracy" in result:
        say(_own_models(result.attrs.get("method", "its method"), option.pt))
    return 0


def _own_models(method: str, pt: bool) -> str:
    """What the authors' schema, which knows one global model, cannot say."""
    said = f"{method} gave every client a model of its own: circuits of the global model are of each client's own"
    return said + ("; checkpoint_round_N.pt is the mean of the clients' models, which no client got" if pt else "")


def _export_csv(option: Export) -> int:
    from fedmi_jax.analysis import runs
    from fedmi_jax.results import tidy

    if option.pt:
        raise ConfigError("csv: does not go with --pt; give one of the two")
    if not option.out.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"out: give FILE.csv or FILE.csv.gz with --csv; got {option.out}")
    found = {named(path, option.folder): store.load(path) for path in runs.find([option.folder])}
    if option.seed is not None:
        found = {name: ds.sel(seed=[option.seed]) for name, ds in found.items() if option.seed in ds["seed"].values}
    if not found:
        raise ConfigError(f"seed: no result in {option.folder} has seed {option.seed}")
    print(tidy.write_csv(found, option.out, option.variable))
    return 0


def named(result: Path, folder: Path) -> str:
    """Where below the folder a run is; of the folder itself, or a file, its own name."""
    inside = result.parent.relative_to(folder).as_posix() if result != folder else "."
    return result.parent.name if inside == "." else inside
