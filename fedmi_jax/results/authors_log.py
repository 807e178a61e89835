"""The authors' training logs: how often the global model is right about each class, which their results files lack.

After every round training_log.txt (github ha405/FedMI) has a title, "Round N Global Full Model Evaluation", and a line
for each class of the data set: its name, the percentage, and in brackets how many of how many images are right. The
counts are what is read. Above them a line names the client and the class of every circuit.

Axes: R rounds, Y classes of the data set.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from fedmi_jax.errors import FedmiError
from fedmi_jax.results.schema import described

MAX_BYTES = 2**24
"""No log is read that is larger; their longest has 100 kB."""
_TITLE = re.compile(r"--- Round ([1-9]\d{0,5}) Global Full Model Evaluation ---")
_CLASS = re.compile(r"  Class (.*): \d+\.\d+% \((\d{1,9})/(\d{1,9})\)")
_CIRCUIT = re.compile(r"\[Round \d{1,6} \| Client (\d{1,6}) \| Class (.*)\] .*")
_Counts = dict[int, list[tuple[str, int, int]]]
"""Round -> of every class its name, how many images are right, and of how many."""


def with_log(ds: xr.Dataset, path: str | Path) -> xr.Dataset:
    """An imported result with global_accuracy and global_class_accuracy from the run's training log.

    Raises FedmiError, in one line with the file, when it cannot be read, when it lacks a round of the result, or when
    its classes, or the clients that have circuits of them, are not those of the result.
    """
    path = Path(path)
    counts, circuits = _read(path)
    rounds = ds["round"].values.tolist()
    missing = [number for number in rounds if number not in counts]
    if missing:
        raise FedmiError(f"{path}: has no accuracies of the global model in round {missing[0]}; is it this run's log?")
    names = [name for name, _, _ in counts[rounds[0]]]
    _require_circuits(path, ds, circuits)
    _require_classes(path, ds, names, [[name for name, _, _ in counts[number]] for number in rounds])
    right, of = (np.array([[one[i] for one in counts[number]] for number in rounds], float) for i in (1, 2))
    ds = ds.assign_coords(true_class=np.arange(len(names)), true_class_name=("true_class", names))
    with np.errstate(invalid="ignore"):
        ds["global_class_accuracy"] = (("seed", "round", "true_class"), (right / of)[None])
        ds["global_accuracy"] = (("seed", "round"), (right.sum(1) / of.sum(1))[None])
    return described(ds)


def _read(path: Path) -> tuple[_Counts, set[tuple[int, str]]]:
    """Of a round that stands there twice, the later one: the run was begun again. And client and class of circuits."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FedmiError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise FedmiError(f"{path}: more than {MAX_BYTES} bytes; this is no training log of the authors")
    found: _Counts = {}
    circuits: set[tuple[int, str]] = set()
    number = None
    for line in content.decode("utf-8", "replace").splitlines():
        title, own = _TITLE.fullmatch(line.strip()), _CLASS.fullmatch(line)
        if circuit := _CIRCUIT.fullmatch(line.strip()):
            circuits.add((int(circuit[1]), circuit[2]))
        if title:
            number = int(title[1])
            found[number] = []
        elif own and number is not None:
            found[number].append((own[1], int(own[2]), int(own[3])))
    if not any(found.values()):
        raise FedmiError(f"{path}: no accuracies of a global model in it; is it a training log of the authors?")
    return found, circuits


def _require_circuits(path: Path, ds: xr.Dataset, circuits: set[tuple[int, str]]) -> None:
    """A log that names no circuit says nothing of them."""
    names, analysed = ds["class_name"].values.tolist(), ds["analysed"].transpose("seed", "client", "class").values[0]
    there = {(client, names[c]) for client, own in zip(ds["client"].values.tolist(), analysed, strict=True)
             for c in np.flatnonzero(own)}  # fmt: skip
    if circuits and circuits != there:
        client, name = min(circuits ^ there)
        one, other = ("has", "lacks") if (client, name) in circuits else ("lacks", "has")
        raise FedmiError(
            f'{path}: {one} circuits of client {client} and class "{name}", which the results file {other}; is it this '
            "run's log?"
        )


def _require_classes(path: Path, ds: xr.Dataset, names: list[str], by_round: list[list[str]]) -> None:
    if any(own != names for own in by_round):
        raise FedmiError(f"{path}: names other classes from one round to another")
    for label, name in zip(ds["class"].values.tolist(), ds["class_name"].values.tolist(), strict=True):
        if label >= len(names) or names[label] != name:
            its = names[label] if label < len(names) else "none"
            raise FedmiError(f'{path}: class {label} is "{its}", but "{name}" in the results file')
