"""The authors' models on disk: reading them into a result, and writing a result's.

FOLDER/round_N/client_K_model.pt holds a client's state_dict after local training, FOLDER/checkpoint_round_N.pt the
global model's under "model_state_dict" (github ha405/FedMI). Only tensors, containers and plain values are loaded
(`torch.load(weights_only=True)`); their checkpoints hold an object of their settings besides, which is not made again.

Layouts: theirs are conv (out, in, 3, 3) and linear (class, feature) with the channel slowest among features; here they
are (3, 3, in, out) and (feature, class) with the channel fastest.

Axes: R rounds, K clients, I image channels, O_l channels of convolution l, Y classes.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing
from fedmi_jax.network.layers import conv_names
from fedmi_jax.results import authors
from fedmi_jax.results.connectivity import connected
from fedmi_jax.results.schema import conv_layers, described, variables

CIRCUITS = "circuits_per_round_controlled_noniid.json"
"""What their studies call the results file beside the models."""
Model = dict[str, np.ndarray]
"""{"conv1_kernel": (3, 3, I, O_1), "conv1_bias": (O_1,), ..., "fc_kernel": (h * w * O_L, Y), "fc_bias": (Y,)}."""


class _Settings:
    """In place of the object of the authors' settings in a checkpoint: it takes whatever is said of it, and does
    nothing."""


def _torch() -> ModuleType:
    try:
        import torch  # here: an extra
    except ImportError:
        raise FedmiError("the authors' .pt files need PyTorch: pip install 'fedmi-jax[reference]'") from None
    return torch


def client_file(folder: Path, number: int, client: int) -> Path:
    return folder / f"round_{number}" / f"client_{client}_model.pt"


def global_file(folder: Path, number: int) -> Path:
    return folder / f"checkpoint_round_{number}.pt"


# --- layouts ---


def to_state_dict(params: Mapping[str, np.ndarray]) -> Model:
    """One model of this project with PyTorch's names and layouts."""
    found, layers = {}, conv_layers(params)
    for layer in layers:
        found[f"{layer}.weight"] = np.ascontiguousarray(params[f"{layer}_kernel"].transpose(3, 2, 0, 1))
        found[f"{layer}.bias"] = params[f"{layer}_bias"]
    kernel, channels = params["fc_kernel"], len(params[f"{layers[-1]}_bias"])
    by_channel = kernel.reshape(-1, channels, kernel.shape[-1]).transpose(2, 1, 0)
    return found | {"fc.weight": by_channel.reshape(len(by_channel), -1), "fc.bias": params["fc_bias"]}


def from_state_dict(state: Mapping[str, np.ndarray]) -> Model:
    """The inverse."""
    found, layers = {}, conv_layers(state)
    for layer in layers:
        found[f"{layer}_kernel"] = state[f"{layer}.weight"].transpose(2, 3, 1, 0)
        found[f"{layer}_bias"] = state[f"{layer}.bias"]
    weight, channels = state["fc.weight"], len(state[f"{layers[-1]}.bias"])
    by_position = weight.reshape(len(weight), channels, -1).transpose(2, 1, 0)
    return found | {"fc_kernel": by_position.reshape(-1, len(weight)), "fc_bias": state["fc.bias"]}


# --- reading ---


def with_weights(ds: xr.Dataset, folder: str | Path) -> xr.Dataset:
    """An imported result with the models of its rounds, in the rounds of which there are any; NaN in the others.

    A round without a checkpoint gets the plain mean of its clients, as in the authors' studies. Raises FedmiError, in
    one line with the file, when no round or not every client of a round has a file, for one that cannot be read, that
    is of another network (with both shapes), of another run (circuits have an edge where it has no weight), or whose
    weights are not finite.
    """
    folder = Path(folder)
    clients, rounds = (ds[dim].values.tolist() for dim in ("client", "round"))
    there = [number for number in rounds if (folder / f"round_{number}").is_dir()]
    if not there:
        raise FedmiError(f"{folder}: no folder round_N of a round of the results file; give the run's checkpoint_dir")
    models: dict[int, tuple[list[Model], Model]] = {}
    expected: dict[str, tuple[int, ...]] = {}
    for number in there:
        local = [_read(client_file(folder, number, client), ds, expected) for client in clients]
        path = global_file(folder, number)
        models[number] = (local, _read(path, ds, expected) if path.exists() else _mean(local))
        for client, model in zip(clients, local, strict=True):
            _require_edges(client_file(folder, number, client), ds, model, "local", round=number, client=client)
        _require_edges(path if path.exists() else path.parent, ds, models[number][1], "global", round=number)
    return _entered(ds, models)


def _mean(models: list[Model]) -> Model:
    return {name: np.mean([model[name] for model in models], 0, dtype=own.dtype) for name, own in models[0].items()}


def _read(path: Path, ds: xr.Dataset, expected: dict[str, tuple[int, ...]]) -> Model:
    """expected: the shapes of the first file, which all others must have; they are noted there."""
    state = _tensors(path, _loaded(path))
    for name, shape in _shapes(path, ds, state).items():
        if state[name].shape != expected.setdefault(name, shape):
            raise FedmiError(f"{path}: {name} has shape {state[name].shape}, in other files {expected[name]}")
    for name, values in state.items():
        if not np.isfinite(values).all():
            raise FedmiError(f"{path}: {name} is not finite; leave this round out")
    return from_state_dict(state)


def _require_edges(path: Path, ds: xr.Dataset, model: Model, origin: str, **at: int) -> None:
    """An edge of a circuit is a kernel with a weight that is not 0: in models of another run some have none."""
    for layer in conv_layers(ds):
        wires = connected(ds, origin, layer).sel(at).values[0]  # (O, I), of one seed
        lost = np.argwhere(wires.astype(bool) & ~(model[f"{layer}_kernel"] != 0).any((0, 1)).T[:, : wires.shape[1]])
        if len(lost):
            to, start = lost[0]
            raise FedmiError(
                f"{path}: is of another run than the results file, whose circuits have an edge from {start} to channel "
                f"{to} of {layer}, where this model has no weight"
            )


def _loaded(path: Path) -> Any:
    torch = _torch()
    stand_ins: Any = [(_Settings, f"config.{name}") for name in ("Config", "NonIIDConfig")]
    try:
        content = path.read_bytes()  # here: on a file that is cut off PyTorch raises an OSError, too
    except OSError as error:
        raise FedmiError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        with torch.serialization.safe_globals(stand_ins):
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # on damaged files the unpickler raises nearly anything
        raise FedmiError(f"{path}: not a state_dict of plain tensors saved by torch.save, or damaged") from None
    return found.get("model_state_dict", found) if isinstance(found, dict) else found


def _tensors(path: Path, state: Any) -> dict[str, np.ndarray]:
    torch = _torch()
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()) or not state:
        raise FedmiError(f"{path}: holds no state_dict of a model")
    odd = [str(k) for k, v in state.items() if v.layout != torch.strided or not v.is_floating_point()]
    if odd:
        raise FedmiError(f"{path}: {odd[0]} is no plain tensor of floating-point numbers")
    wide = torch.float64
    return {str(k): (v if v.dtype == wide else v.float()).detach().numpy(force=True) for k, v in state.items()}


def _shapes(path: Path, ds: xr.Dataset, state: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """What the circuits' network asks for; what they do not say, as the file has it. Raises FedmiError for another."""
    channels = [ds.sizes[f"channel_{layer}"] for layer in conv_layers(ds)]
    names = [f"{layer}.{part}" for layer in (*conv_names(len(channels)), "fc") for part in ("weight", "bias")]
    if sorted(state) != sorted(names):
        own, wanted = ", ".join(sorted(state))[:200], ", ".join(names)
        raise FedmiError(f"{path}: holds {own}; the circuits' network has {wanted}")
    first, last = state["conv1.weight"], state["fc.weight"]
    images = first.shape[1] if first.ndim == 4 else 1
    positions = max(1, last.shape[1] // channels[-1]) if last.ndim == 2 else 1
    classes = len(last) if last.ndim == 2 else ds.sizes["class"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, below, width in zip(conv_names(len(channels)), (images, *channels), channels, strict=False):
        shapes |= {f"{layer}.weight": (width, below, 3, 3), f"{layer}.bias": (width,)}
    shapes |= {"fc.weight": (classes, positions * channels[-1]), "fc.bias": (classes,)}
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise FedmiError(
                f"{path}: {name} has shape {state[name].shape}, but the circuits are of a network with {shape}"
            )
    _require_coordinates(path, ds, images, classes)
    return shapes


def _require_coordinates(path: Path, ds: xr.Dataset, images: int, classes: int) -> None:
    """The result may know more than the circuits' channels say."""
    if images < ds.sizes.get("image_channel", 0):
        raise FedmiError(
            f"{path}: takes {images} image channel, but circuits have edges from {ds.sizes['image_channel']}"
        )
    known = ds.sizes.get("true_class", classes)
    if known != classes or max(ds["class"].values) >= classes:
        raise FedmiError(
            f"{path}: has {classes} classes, but the results file has class {max(ds['class'].values)} of {known}"
        )


def _entered(ds: xr.Dataset, models: Mapping[int, tuple[list[Model], Model]]) -> xr.Dataset:
    """Into arrays of all rounds."""
    local, over = next(iter(models.values()))
    images, classes = over["conv1_kernel"].shape[2], len(over["fc_bias"])
    if ds.sizes.get("image_channel", images) < images:
        ds = ds.reindex(image_channel=range(images), fill_value=False)  # type: ignore[arg-type]
    if "true_class" not in ds.coords:
        ds = ds.assign_coords(true_class=np.arange(classes))
    rows, rounds = variables(conv_layers(ds)), ds["round"].values.tolist()
    for name, own in over.items():
        shape = (1, len(rounds), len(local), *own.shape)
        each, whole = np.full(shape, np.nan, own.dtype), np.full((*shape[:2], *own.shape), np.nan, own.dtype)
        for number, (clients, global_) in models.items():
            at = rounds.index(number)
            each[0, at], whole[0, at] = [client[name] for client in clients], global_[name]
        for origin, values in (("local", each), ("global", whole)):
            ds[f"weights_{origin}_{name}"] = (rows[f"weights_{origin}_{name}"].dims, values)
    return described(ds)


# --- writing ---


def export_weights(ds: xr.Dataset, folder: str | Path, seed: int | None = None) -> Path:
    """Write one seed of a result as the authors' checkpoint_dir: every model of every round, and the results file.

    Rounds of an imported file that have no weights are left out. Each file appears whole or not at all. Raises
    FedmiError where the result has no weights of a model, as `authors.export_authors` does, and when a file cannot be
    written.
    """
    folder = Path(folder)
    if "weights_local_fc_bias" not in ds:
        raise FedmiError("weights_*: not in the result; keep them with `fedmi run ... --execution.save-weights`")
    if folder.exists() and not folder.is_dir():
        raise FedmiError(f"{folder}: is a file; choose a folder")
    torch = _torch()
    authors.export_authors(ds, folder / CIRCUITS, seed)
    one = ds.isel(seed=0) if seed is None else ds.sel(seed=seed)
    for number in one["round"].values[one["weights_global_fc_bias"].notnull().any("true_class").values].tolist():
        for client in one["client"].values.tolist():
            state = _state(torch, one.sel(round=number, client=client), "local")
            _save(torch, state, client_file(folder, number, client))
        state = _state(torch, one.sel(round=number), "global")
        _save(torch, {"round": number, "model_state_dict": state, "all_circuits": {}}, global_file(folder, number))
    return folder


def _state(torch: ModuleType, at: xr.Dataset, origin: str) -> OrderedDict[str, Any]:
    names = [str(name) for name in at if re.match(rf"weights_{origin}_(conv\d+|fc)_(kernel|bias)$", str(name))]
    rows = variables(conv_layers(at))
    params = {
        name.removeprefix(f"weights_{origin}_"): at[name].transpose(*_own(rows[name].dims, at[name].dims)).values
        for name in names
    }
    if any(np.isnan(values).any() for values in params.values()):
        whose = f"client {at['client'].item()}" if origin == "local" else "the global model"
        raise FedmiError(f"round {at['round'].item()}: the weights of {whose} are not there, or not finite")
    order = [f"{layer}.{part}" for layer in (*conv_layers(at), "fc") for part in ("weight", "bias")]
    state = to_state_dict(params)
    return OrderedDict((name, torch.from_numpy(np.array(state[name]))) for name in order)


def _own(dims: tuple[str, ...], left: tuple[Any, ...]) -> list[str]:
    return [dim for dim in dims if dim in left]


def _save(torch: ModuleType, values: Any, path: Path) -> None:
    with replacing(path) as temporary:
        torch.save(values, temporary)
