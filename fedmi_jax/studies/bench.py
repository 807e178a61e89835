"""A stored run's models and test images on the devices, and judging many changed models in one compiled call.

A client's global model is what the server gave it: one model for all, or of some methods one for each, as
`Bench.given` knows.

Axes: M moments (one round of one seed each), K clients, n rows (models to be judged), c classes whose images are
looked at, g * B images of a class (padded), Y classes of the network, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax import config
from fedmi_jax.circuits.evaluation import EvaluationSet, Fraction, divided, make_evaluation_set, masked_logits
from fedmi_jax.config import Evaluation, Execution
from fedmi_jax.data import datasets, identity, mnist
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import Layout, resolve
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import again, programs
from fedmi_jax.federation.setup import activations
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params
from fedmi_jax.results import store
from fedmi_jax.results.authors import CLASS_NAMES
from fedmi_jax.studies.chance import Channels
from fedmi_jax.studies.stored import Case, Stored


class Answers(NamedTuple):
    """What a model says to the images of c classes; in programs of `Fraction`s. NaN for a class without test images."""

    called: Any
    """(c, Y): share of the images of each class that are called each class."""
    top3: Any
    """(c,): share whose own class is among the three largest logits."""
    softmax: Any
    """(c,): mean softmax of the own class."""


class Own(NamedTuple):
    """The same of one class alone and its own answer: (n,) each."""

    top1: np.ndarray
    top3: np.ndarray
    softmax: np.ndarray


@dataclass(frozen=True, eq=False)
class Bench:
    """All that judging needs."""

    stored: Stored
    layout: Layout
    test: EvaluationSet
    local_models: Params
    """(M * K, ...); NaN for clients that did not take part."""
    images: np.ndarray
    """(Y,): how many test images there are of each class."""

    @cached_property
    def global_models(self) -> Params:
        """(M, ...); where the server gave every client a model of its own (M * K, ...), of those that took part."""
        models = _served(self.stored, self.layout) if self.stored.served_each else _models(self.stored, "global")
        return lift.replicate(models, self.layout)

    def local(self, moment: int, client: int) -> int:
        """The place of a client's model in `local_models`."""
        return moment * len(self.stored.clients) + self.stored.clients.index(client)

    def given(self, moment: int, client: int) -> int:
        """The place in `global_models` of the one that the server gave this client."""
        return self.local(moment, client) if self.stored.served_each else moment

    def given_to_experts(self, cases: Sequence[Case]) -> list[int]:
        """The place in `global_models` of the one that each class's expert got."""
        return [self.given(m, self.stored.moments[m].experts[label]) for m, label in cases]

    def judge(self, fn: Callable[..., Any], models: Params, model_index: Any, rows: tuple, shared: tuple) -> Any:
        """fn(params, *one of rows, *shared, narrowing=...) of every row, as host arrays; fn: a module's function."""
        found = _over(fn, models, np.asarray(model_index), rows, shared, layout=self.layout)
        return divided(found, np.float64)  # so that 937 of 980 images are 937 / 980, as a log has it

    def gates(self, sets: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Rows of gates (n, O_l) that keep these channels."""
        dtype = self.local_models["fc_bias"].dtype
        return {layer: np.stack([one[layer] for one in sets]).astype(dtype) for layer in self.stored.layers}

    def answers(self, cases: Sequence[Case], sets: Sequence[Channels]) -> Answers:
        """Of the global models that the cases' experts got, with only these channels open, to the images of all
        classes: leading axis n."""
        models, every = self.given_to_experts(cases), np.arange(len(self.images))
        return self.judge(answers, self.global_models, models, (self.gates(sets),), (every, self.test))

    def own_answers(self, cases: Sequence[Case], sets: Sequence[Channels]) -> Own:
        """As `answers`, to the images of each case's own class alone."""
        models, labels = self.given_to_experts(cases), np.array([label for _, label in cases])
        found = self.judge(answers, self.global_models, models, (self.gates(sets), labels[:, None]), (self.test,))
        return Own(found.called[np.arange(len(cases)), 0, labels], found.top3[:, 0], found.softmax[:, 0])

    def whole(self, count: int) -> list[dict[str, np.ndarray]]:
        """So many sets of all channels."""
        widths = {layer: self.local_models[f"{layer}_bias"].shape[-1] for layer in self.stored.layers}
        return [{layer: np.ones(width, bool) for layer, width in widths.items()}] * count


@partial(jax.jit, static_argnames=("fn", "layout"))
def _over(
    fn: Callable[..., Any], models: Params, model_index: Array, rows: tuple, shared: tuple, *, layout: Layout
) -> Any:
    return programs.over_rows(partial(fn, narrowing=layout.narrowing), layout, models, model_index, rows, shared)


def of_classes(classes: Array, test: EvaluationSet) -> tuple[Array, Array]:
    """Which images of the test set are of these classes, (c, g * B) each: places in the set, and which are real."""
    return tuple(part[classes].reshape(len(classes), -1) for part in (test.class_indices, test.class_valid))  # type: ignore[return-value]


def logits_of(params: Params, gates: Any, classes: Array, test: EvaluationSet, narrowing: bool) -> Array:
    """Of the masked model on the images of these classes, (c, g * B, Y)."""
    index = test.class_indices[classes]
    logits = masked_logits(params, gates, ZERO, test.images, index.reshape(-1, index.shape[-1]), narrowing)
    return logits.reshape(len(classes), -1, logits.shape[-1])


def answers(params: Params, gates: Any, classes: Array, test: EvaluationSet, *, narrowing: bool) -> Answers:
    """Of the masked model."""
    logits, (_, valid) = logits_of(params, gates, classes, test, narrowing), of_classes(classes, test)
    own = jnp.take_along_axis(logits, classes[:, None, None], 2)
    before = jnp.arange(logits.shape[-1]) < classes[:, None, None]
    ahead = jnp.sum((logits > own) | ((logits == own) & before), -1)  # of equals the first wins, as in argmax
    called = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype)
    softmax = jnp.take_along_axis(jax.nn.softmax(logits), classes[:, None, None], 2)[..., 0]
    return Answers(mean(called, valid), mean(ahead < 3, valid), mean(softmax, valid))


def mean(values: Array, valid: Array) -> Fraction:
    """Over the valid images of each class: (c, N, ...) -> (c, ...)."""
    weight = valid.reshape(*valid.shape, *(1,) * (values.ndim - 2))
    total = jnp.sum(values * weight, 1)
    return Fraction(total, jnp.broadcast_to(jnp.sum(weight, 1), total.shape).astype(total.dtype))


def replaced(params: Params, source: Params, channels: Mapping[str, Array]) -> Params:
    """The model with the kernels and biases of these channels, (O_l,) each, taken from another model. What the next
    layer does with them stays."""
    changed = dict(params)
    for layer, put in channels.items():
        for part in ("kernel", "bias"):
            name = f"{layer}_{part}"
            changed[name] = jnp.where(put > 0, source[name], params[name])
    return changed


# --- from the stored result ---


@contextmanager
def opened(stored: Stored, dataset: Dataset | None = None) -> Iterator[Bench]:
    """Within it the models are on the devices, in the precision that they were stored in.

    dataset: the images, where the run was made of images of one's own. The result must have weights
    (`stored.require_weights`). Raises FedmiError where images and network do not go together.
    """
    settings = _settings(stored)
    execution, judged = (settings.execution, settings.evaluation) if settings else (Execution(), Evaluation())
    precision = str(stored.ds["weights_local_fc_bias"].dtype)
    execution = config.replace(execution, precision="float64" if precision == "float64" else "float32")
    dataset = dataset or datasets.load(config.Data(name=_images_of(stored)) if settings is None else settings.data)
    _require_images(stored, dataset)
    with session(execution):
        layout = resolve(execution, judged, len(stored.moments), _bytes(stored, dataset))
        yield _place(stored, dataset, layout, judged.images_per_class)


def _bytes(stored: Stored, dataset: Dataset) -> int:
    """Roughly what judging one more model side by side takes: parameters, and outputs of all layers."""
    models = [stored.ds[name] for name in stored.ds if str(name).startswith("weights_global_")]
    size = models[0].dtype.itemsize
    channels = tuple(stored.ds.sizes[f"channel_{layer}"] for layer in stored.layers)
    params = sum(model.size // (model.sizes["seed"] * model.sizes["round"]) for model in models)
    return size * (5 * params + 3 * FORWARD * activations(dataset.image_shape, channels))


FORWARD = 500
"""Images of a forward pass where models stand side by side (`devices.layout`)."""


def _place(stored: Stored, dataset: Dataset, layout: Layout, per_class: int | None) -> Bench:
    local_models = {k: value.reshape(-1, *value.shape[2:]) for k, value in _models(stored, "local").items()}
    dtype = local_models["fc_bias"].dtype
    moments = (np.asarray(moment, dtype) for moment in (dataset.mean, dataset.std))
    images = Images(dataset.test_images, dataset.test_labels, *moments)  # type: ignore[arg-type]
    test = make_evaluation_set(images, dataset.test_labels, dataset.num_classes, layout.forward_batch, per_class)
    test, local_models = lift.replicate((test, local_models), layout)
    return Bench(stored, layout, test, local_models, np.asarray(test.class_valid).sum((1, 2)))


def _served(stored: Stored, layout: Layout) -> dict[str, np.ndarray]:
    """(M * K, ...), made again from the stored models."""
    if not again.follows(stored.ds):
        raise FedmiError(
            f"{stored.method} gave every client a model of its own, which is not stored and can be made again only for "
            "a method that `fedmi list` names, from all rounds; give the whole result of such a run, or ask pairwise, "
            "centroids or linear"
        )
    wanted = {moment.round for moment in stored.moments}
    found = {n: {k: np.asarray(v) for k, v in one.items()} for n, one in again.served(stored.ds, layout) if n in wanted}
    each = [{k: value[moment.at[0]] for k, value in found[moment.round].items()} for moment in stored.moments]
    return {k: np.concatenate([one[k] for one in each]) for k in each[0]}


def _models(stored: Stored, origin: str) -> dict[str, np.ndarray]:
    """(M, ...), or (M, K, ...) of local models."""
    lead = ("seed", "round", "client") if origin == "local" else ("seed", "round")
    at = tuple(np.array([moment.at for moment in stored.moments]).T)
    names = [f"{layer}_{part}" for layer in (*stored.layers, "fc") for part in ("kernel", "bias")]
    return {name: stored.ds[f"weights_{origin}_{name}"].transpose(*lead, ...).values[at] for name in names}


def _settings(stored: Stored) -> config.Experiment | None:
    return config.from_json(stored.ds.attrs["config"]) if "config" in stored.ds.attrs else None


def _images_of(stored: Stored) -> str:
    """The set that an imported file is of, by its classes' names. Raises FedmiError for names of no set known here: any
    other images of that size would be judged, too, and the numbers plausible."""
    names, labels = map(str, stored.ds["class_name"].values), stored.ds["class"].values.tolist()
    own = list(zip(labels, names, strict=True))
    for dataset, known in {"mnist": mnist.CLASS_NAMES, **CLASS_NAMES}.items():
        if all(label < len(known) and known[label] == name for label, name in own):
            return dataset
    told = ", ".join(name for _, name in own[:3])
    raise FedmiError(
        f"its classes are named {told}{', ...' if len(own) > 3 else ''}, which are of no set known here; give the "
        "images from Python, as in study(..., dataset=...)"
    )


def _require_images(stored: Stored, dataset: Dataset) -> None:
    known, here = store.images(stored.ds), identity.describe(dataset)
    if known is not None and not known.is_same(here):
        raise FedmiError(f"its images are {known}, not {here}; give them from Python, as in study(..., dataset=...)")
    weight, (height, width, channels) = stored.ds["weights_global_conv1_kernel"], dataset.image_shape
    inputs, classes = weight.sizes["image_channel"], stored.ds.sizes["true_class"]
    pools, last = len(stored.layers), stored.ds.sizes[f"channel_{stored.layers[-1]}"]
    features = (height >> pools) * (width >> pools) * last
    own = (inputs, stored.ds["weights_global_fc_kernel"].sizes["feature"], classes)
    if own != (channels, features, dataset.num_classes):
        raise FedmiError(
            f"its network takes {own[0]} image channels and has {own[1]} features and {own[2]} classes; images of "
            f"{dataset.name} give {channels}, {features} and {dataset.num_classes}"
        )
