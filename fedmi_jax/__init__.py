"""What happens inside the network when FedAvg meets skewed data: federated training of sparse CNNs, their circuits, and
what becomes of them (arXiv 2512.23043), in JAX.

    import fedmi_jax
    result = fedmi_jax.run("quick", progress=True)
    fedmi_jax.summary(result)["cross_evaluation"]["mean"]
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.aggregation import Method
    from fedmi_jax.analysis.compare import compare as compare
    from fedmi_jax.circuits.single import activations as activations
    from fedmi_jax.circuits.single import discover as discover
    from fedmi_jax.circuits.single import evaluate as evaluate
    from fedmi_jax.circuits.single import means as means
    from fedmi_jax.circuits.single import predict as predict
    from fedmi_jax.config import Checkpoint as Checkpoint
    from fedmi_jax.config import Experiment as Experiment
    from fedmi_jax.data.datasets import Dataset as Dataset
    from fedmi_jax.data.datasets import from_arrays as from_arrays
    from fedmi_jax.data.datasets import from_file as from_file
    from fedmi_jax.data.datasets import from_name as from_name
    from fedmi_jax.data.own_split import OwnSplit
    from fedmi_jax.errors import FedmiError as FedmiError
    from fedmi_jax.errors import FedmiWarning as FedmiWarning
    from fedmi_jax.federation.again import search_again as search_again
    from fedmi_jax.federation.metrics import OnRound
    from fedmi_jax.presets import Preset
    from fedmi_jax.presets import experiment as experiment
    from fedmi_jax.presets import preset as preset
    from fedmi_jax.report.html.notebook import view as view
    from fedmi_jax.results.authors import export_authors as export_authors
    from fedmi_jax.results.authors import import_authors as import_authors
    from fedmi_jax.results.store import load as load
    from fedmi_jax.results.store import save as save
    from fedmi_jax.results.summary import summary as summary
    from fedmi_jax.results.tidy import tidy as tidy
    from fedmi_jax.studies import study as study

_HOME = {
    "Checkpoint": "config",
    "Experiment": "config",
    "FedmiError": "errors",
    "FedmiWarning": "errors",
    "Dataset": "data.datasets",
    "from_arrays": "data.datasets",
    "from_file": "data.datasets",
    "from_name": "data.datasets",
    "activations": "circuits.single",
    "compare": "analysis.compare",
    "discover": "circuits.single",
    "evaluate": "circuits.single",
    "means": "circuits.single",
    "predict": "circuits.single",
    "search_again": "federation.again",
    "export_authors": "results.authors",
    "import_authors": "results.authors",
    "experiment": "presets",
    "preset": "presets",
    "load": "results.store",
    "save": "results.store",
    "summary": "results.summary",
    "tidy": "results.tidy",
    "view": "report.html.notebook",
    "study": "studies",
}
__all__ = ["resume", "run", *_HOME]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when first asked for, so that looking at a result does not start JAX."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """What is public, and the parts that have been imported; not what this file imports for itself."""
    loaded = (name for name, value in globals().items() if getattr(value, "__name__", "") == f"{__name__}.{name}")
    return sorted({*__all__, *loaded, "__doc__", "__file__", "__name__", "__version__"})


def run(
    experiment: Experiment | Preset | str,
    dataset: Dataset | None = None,
    *,
    progress: bool = False,
    folder: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    method: Method | None = None,
    split: OwnSplit | None = None,
    on_round: OnRound | None = None,
) -> xr.Dataset:
    """Run the experiment; its result is an `xarray.Dataset` whose variables `fedmi_jax.results.schema` lists.

    Args: experiment: or a preset of one experiment, or its name; dataset: images in place of those `experiment.data`
    names (see `from_arrays`); progress: show a bar, or one line per round where standard error is no terminal; folder:
    keep every round there, go on with what it holds of this experiment, and leave result.nc there; checkpoint: how
    often, and how many; method: a federated method of one's own (see `fedmi_jax.aggregation.base`) in place of the one
    that `experiment.aggregation` names; split: who holds which training images, in place of what `experiment.split`
    says: a sequence of arrays of indices, one array for each client, or a function of the labels and a random generator
    that returns one (`fedmi_jax.data.own_split`); on_round: called as on_round(round, metrics) after each
    (`fedmi_jax.federation.metrics`). Raises FedmiError, one line, for what does not fit the data, for a value that
    nothing would read, for a loss or weights that are not finite, for a method that does not keep the model's shapes,
    and for a folder that is taken, in use or cannot be written.
    """
    from fedmi_jax import config, devices, errors, presets

    devices.require_jax()
    from fedmi_jax.cli.progress import following
    from fedmi_jax.federation import resumable, simulation

    chosen = presets.experiment(experiment)
    config.refuse_unused(chosen)
    if folder is None and checkpoint is not None:
        raise errors.ConfigError("checkpoint: does nothing without a folder; give one, or leave it out")
    with following(chosen if progress else None, on_round) as (advance, told):
        own = {"method": method, "on_round": told, "split": split}
        if folder is None:
            return simulation.run(chosen, dataset, advance, **own)
        return resumable.run(chosen, _path(folder), dataset, advance, checkpoint, **own)


def resume(
    folder: str | Path, dataset: Dataset | None = None, *, rounds: int | None = None, progress: bool = False,
    method: Method | None = None, split: OwnSplit | None = None, on_round: OnRound | None = None,
) -> xr.Dataset:  # fmt: skip
    """Go on with the unfinished run in `folder`; the same result, bit for bit, as if it had never ended.

    Args: dataset: the images, where the run was begun with images of one's own; rounds: how many in all, when more are
    wanted; progress, on_round: as of `run`; method, split: the same as at its beginning, where `run` was given one.
    Raises FedmiError, one line, as `run` does.
    """
    from fedmi_jax import devices

    devices.require_jax()
    from fedmi_jax.cli.progress import following
    from fedmi_jax.federation import resumable

    path = _path(folder)
    with following(resumable.experiment_in(path, rounds) if progress else None, on_round) as (advance, told):
        return resumable.resume(path, dataset, advance, rounds, method=method, on_round=told, split=split)


def _path(folder: str | Path) -> Path:
    """Path("") would be the current folder, which nobody has named."""
    if folder == "":
        from fedmi_jax.errors import ConfigError

        raise ConfigError("folder: the name is empty; give a folder, and . for the current one")
    from fedmi_jax.files import user_path

    return user_path(folder)


if "IPython" in sys.modules:
    from fedmi_jax.report.html.notebook import summarise_results

    summarise_results()
