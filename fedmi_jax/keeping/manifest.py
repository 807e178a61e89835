"""run.json: what an unfinished run is, and where it began."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from pydantic import TypeAdapter, ValidationError

from fedmi_jax.config import Checkpoint, Evaluation, Experiment, explain, replace, to_dict
from fedmi_jax.data import identity
from fedmi_jax.data.identity import ImageSet
from fedmi_jax.devices import start
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing
from fedmi_jax.results import store

if TYPE_CHECKING:
    from fedmi_jax.data.datasets import Dataset

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What run.json says."""

    experiment: Experiment
    checkpoint: Checkpoint
    dataset: str
    """`identity.fingerprint` of the images."""
    machine: dict[str, str]
    """Versions and devices at the start."""
    method: str | None = None
    """Name of a method of the user's own, which was given from Python; None: the one that the experiment names."""
    schema_version: int = SCHEMA_VERSION
    dataset_name: str = "images without a name"
    """Of the images; files from before it was kept have none."""
    chunk: int | None = None
    """What `execution.client_chunk` "auto" meant where the run began: a run that goes on does not ask again how much
    memory is free. None: it was not auto, or not kept."""

    @property
    def images(self) -> ImageSet:
        """As far as they are known."""
        return ImageSet(self.dataset_name, sha256=self.dataset)

    @property
    def run(self) -> str:
        """The run's identity; with more rounds, or laid out otherwise, it is the same run."""
        own = [] if self.method is None else [self.method]
        return _sha256([_identity(self.experiment), self.dataset, *own])


def fixed(experiment: Experiment) -> Experiment:
    """Without what a run may be given anew when it goes on: how many rounds, how they are laid out, which changes last
    digits and nothing else, and where the images lie: their fingerprint says which they are."""
    execution = replace(experiment.execution, client_chunk="auto", devices=None, shard="auto", micro_batch=0)
    evaluation = replace(experiment.evaluation, batch_size=Evaluation().batch_size)
    data = replace(experiment.data, file=None)
    return replace(experiment, rounds=1, data=data, execution=execution, evaluation=evaluation)


_FIRST = {
    "data": ("name", "data_dir", "images_per_client"),
    "split": ("kind", "clients", "class_map", "alpha", "min_samples", "classes_per_client", "shards_per_client"),
    "local": ("epochs", "batch_size", "learning_rate", "fedprox", "fedrs"),
    "sparsity": ("target", "ramp", "scope", "floor"),
    "aggregation": ("kind", "weighting"),
    "discovery": ("classes", "steps", "learning_rate", "l0", "initial_score", "batch_size", "ablation", "repeat"),
    "evaluation": ("images_per_class", "batch_size", "null_samples"),
    "execution": ("client_chunk", "devices", "shard", "micro_batch", "precision", "save_weights"),
}
"""Fields of sections that runs of every version have. Nothing is to be added: what is not here came later."""


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What decides the numbers, without later fields that have their defaults: a run that began before there were such
    fields is the same run today."""
    values, usual = to_dict(fixed(experiment)), to_dict(Experiment())
    for section, own in values.items():
        if isinstance(own, dict):
            first = _FIRST.get(section, ())
            values[section] = {k: v for k, v in own.items() if k in first or v != usual[section][k]}
    return {section: value for section, value in values.items() if value != {}}


_MANIFEST = TypeAdapter(Manifest)


def describe(experiment: Experiment, dataset: Dataset, settings: Checkpoint, method: str | None = None) -> Manifest:
    """The manifest of a run that begins here and now. method: name of a method of the user's own."""
    sha256 = identity.fingerprint(dataset)
    return Manifest(experiment, settings, sha256, machine(), method=method, dataset_name=dataset.name)


def write(home: Path, manifest: Manifest) -> None:
    """Raises FedmiError when it cannot be written."""
    values = _MANIFEST.dump_python(manifest, mode="json")
    with replacing(home / "run.json") as temporary:
        temporary.write_text(json.dumps({"sha256": _sha256(values), "run": values}, indent=1), "utf-8")


def read(home: Path) -> Manifest | None:
    """What run.json says; None where there is none. Raises FedmiError when it is damaged or of a newer schema."""
    path = home / "run.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        values = found["run"]
        if found["sha256"] != _sha256(values):
            raise ValueError("its checksum is another")
        if values["schema_version"] != SCHEMA_VERSION:
            raise FedmiError(f"{path}: schema {values['schema_version']}; this fedmi_jax reads {SCHEMA_VERSION}")
        return _MANIFEST.validate_python(values)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise FedmiError(f"{path}: {explain(error)}") from None
    except OSError as error:
        raise FedmiError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())[:100]
        raise FedmiError(f"{path}: damaged ({said}); move its folder away to begin again") from None


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def machine() -> dict[str, str]:
    """What a result's last bits may depend on besides the configuration."""
    devices = jax.devices()
    return store.versions() | {
        "architecture": platform.machine(),
        "devices": f"{len(devices)} {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "settings": " ".join(f"{name}={value}" for name, value in start.settings().items()),
    }
