"""What happens inside the network when FedAvg meets skewed data: federated training of sparse CNNs, their circuits, and
what becomes of them (arXiv 2512.23043), in JAX.

    import fedmi_jax
    result = fedmi_jax.run(fedmi_jax.preset("quick").experiments[0], progress=True)
    fedmi_jax.summary(result)["cross_evaluation"]["mean"]
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.aggregation import Method
    from fedmi_jax.config import Checkpoint as Checkpoint
    from fedmi_jax.config import Experiment as Experiment
    from fedmi_jax.data.datasets import Dataset as Dataset
    from fedmi_jax.data.datasets import from_arrays as from_arrays
    from fedmi_jax.errors import FedmiError as FedmiError
    from fedmi_jax.presets import preset as preset
    from fedmi_jax.results.authors import export_authors as export_authors
    from fedmi_jax.results.authors import import_authors as import_authors
    from fedmi_jax.results.store import load as load
    from fedmi_jax.results.store import save as save
    from fedmi_jax.results.summary import summary as summary

_HOME = {
    "Checkpoint": "config",
    "Experiment": "config",
    "FedmiError": "errors",
    "Dataset": "data.datasets",
    "from_arrays": "data.datasets",
    "export_authors": "results.authors",
    "import_authors": "results.authors",
    "preset": "presets",
    "load": "results.store",
    "save": "results.store",
    "summary": "results.summary",
}
__all__ = ["resume", "run", *_HOME]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imported when first asked for, so that looking at a result does not start JAX."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def run(
    experiment: Experiment,
    dataset: Dataset | None = None,
    *,
    progress: bool = False,
    folder: str | Path | None = None,
    checkpoint: Checkpoint | None = None,
    method: Method | None = None,
) -> xr.Dataset:
    """Run the experiment; its result is an `xarray.Dataset` whose variables `fedmi_jax.results.schema` lists.

    Args: dataset: images in place of those `experiment.data` names (see `from_arrays`); progress: show a bar; folder:
    keep every round there, go on with what it holds of this experiment, and leave result.nc there; checkpoint: how
    often, and how many; method: a federated method of one's own (see `fedmi_jax.aggregation.base`) in place of the one
    that `experiment.aggregation` names. Raises FedmiError, one line, for what does not fit the data, for a loss or
    weights that are not finite, for a method that does not keep the model's shapes, and for a folder that is taken, in
    use or cannot be written.
    """
    from fedmi_jax.cli.progress import bar
    from fedmi_jax.federation import resumable, simulation

    with bar(experiment if progress else None) as advance:
        if folder is None:
            return simulation.run(experiment, dataset, advance, method=method)
        return resumable.run(experiment, Path(folder), dataset, advance, checkpoint, method)


def resume(
    folder: str | Path, dataset: Dataset | None = None, *, rounds: int | None = None, progress: bool = False,
    method: Method | None = None,
) -> xr.Dataset:  # fmt: skip
    """Go on with the unfinished run in `folder`; the same result, bit for bit, as if it had never ended.

    Args: dataset: the images, where the run was begun with images of one's own; rounds: how many in all, when more are
    wanted; progress: show a bar; method: the same as at its beginning, where `run` was given one. Raises FedmiError,
    one line, as `run` does.
    """
    from fedmi_jax.cli.progress import bar
    from fedmi_jax.federation import resumable

    folder = Path(folder)
    with bar(resumable.experiment_in(folder, rounds) if progress else None) as advance:
        return resumable.resume(folder, dataset, advance, rounds, method)
