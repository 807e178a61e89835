"""The second instrument on one model of one's own, as a federated run uses it on many.

Axes: N images, H x W pixels, I image channels, O_l channels of convolution l, Y classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fedmi_jax.circuits import deciding, given, question
from fedmi_jax.circuits.deciding import Probed, Task
from fedmi_jax.circuits.evaluation import groups, masked_logits
from fedmi_jax.circuits.narrowing import Narrowing, is_sparse
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery
from fedmi_jax.data import probe
from fedmi_jax.errors import FedmiError, FedmiWarning
from fedmi_jax.keys import DECIDE_LOCAL
from fedmi_jax.network import model
from fedmi_jax.network.ablation import ZERO, Ablation
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params

FORWARD = 50
"""Images at a time."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """A circuit of one model: which channels it keeps, and how it was found."""

    label: int
    others: np.ndarray
    """bool (Y,): the classes that the class is told from."""
    mask: Mapping[str, np.ndarray]
    """bool {"conv1": (O_1,), ...}; all False where the status is "undefined"."""
    score: Mapping[str, np.ndarray]
    """{"conv1": (O_1,), ...}: above 0 for the circuit's channels, 0 or less for others; minus infinity for those that
    could not be part."""
    rank: Mapping[str, np.ndarray]
    """int {"conv1": (O_1,), ...}: the order of all live channels, 1 for the best; 0 for the others. `curve` is of the
    best channels by it."""
    status: str
    """"found"; "not compact": even all live channels explain less than the target; "undefined": the model does not
    decide about the class, so there is no circuit."""
    explained: float
    """Share of the decision that the circuit explains on the images its size was chosen on; `evaluate` says it of other
    images."""
    spread: float
    """Nats that there were to explain: the distance of the best constant answer."""
    competence: float
    """Balanced accuracy of the whole model on the class, on the images that the size was chosen on."""
    sizes: np.ndarray
    """(L,): numbers of channels that were tried."""
    curve: np.ndarray
    """(L,): the share explained by the best channels, so many of them."""
    untrimmed: int
    """Channels before those that could go were left out."""
    live: int
    """Channels with a path of non-zero weights from the image to the linear layer."""
    ablation: Ablation
    """What a closed channel is replaced by."""

    @property
    def size(self) -> int:
        """Channels in all."""
        return int(sum(mask.sum() for mask in self.mask.values()))


class Evaluation(NamedTuple):
    """What a circuit does on images that it was not searched on."""

    explained: float
    """Share of the model's own decision: 1 for the very answers, at most 0 for a constant answer. NaN where the model
    decides nothing about the class: its answers on these images are nearly one constant answer."""
    auc: float
    """Of the class's log-odds, the class against the others."""
    balanced_accuracy: float
    call_rate: np.ndarray
    """(Y,): share of the images of each class that are called the circuit's class; NaN for a class without images."""
    model_balanced_accuracy: float
    """Of the whole model."""
    bias_accuracy: float
    """Balanced accuracy of calling the class where its log-odds plus one bias are above 0; the bias is fitted on every
    second image of each class and judged on the others, and the reverse. 0.5 where a half lacks images."""


def discover(
    params: Params, images: ArrayLike, labels: ArrayLike, label: int, *, others: Sequence[int] | None = None,
    settings: Discovery | None = None, mean: Sequence[float] | float = 0.0, std: Sequence[float] | float = 1.0,
    seed: int = 0,
) -> Circuit:  # fmt: skip
    """The circuit of a model that decides between the class `label` and others.

    Args: params: `fedmi_jax.network.model.Params` of numpy or JAX arrays; images uint8 (N, H, W[, I]), which are
    divided by 255, or floats as they are; either less `mean` and divided by `std`, per channel; labels (N,); others:
    the classes that the class is told from, None: all; settings: `Discovery(objective="decision")` unless given, whose
    `probe` says how many images of every class are used; seed: of all draws. Raises FedmiError, one line, for arrays
    that do not fit one another or the model, or are not finite, and for a class with too few images.
    Judge the circuit with `evaluate`, on images that it was not given here.
    """
    settings = Discovery(objective="decision") if settings is None else settings
    params, known = given.arrays(params), given.array("labels", labels)
    classes = params["fc_bias"].shape[0]
    pool = given.images(params, images, mean, std)
    given.require_labels(known, len(pool.pixels), label, classes)
    given.require_search(settings, seed)
    if settings.doubt:
        warnings.warn(settings.doubt, FedmiWarning, stacklevel=2)
    apart = given.apart(label, others, classes)
    places, searched = probe.draw(known, classes, settings.probe, seed), classes * settings.probe[0]
    drawn = pool._replace(pixels=pool.pixels[places], labels=jnp.asarray(known[places], jnp.int32))
    probed = _probed(params, drawn, searched)
    channels = sum(params[f"{layer}_bias"].size for layer in conv_layers(params))
    plan, draws = probe.search_plan(label, apart, settings, (seed, DECIDE_LOCAL, 0, 0, label), channels)
    chosen, valid = probe.selection(label, apart, settings.probe, FORWARD)
    task = Task(jnp.asarray(label), jnp.asarray(apart), plan, draws, chosen, valid, settings.objective == "contrast")
    compiled = {"settings": deciding.compiled_for(settings), "searched": searched, "narrowing": _narrowing(params)}
    found = _decide(params, drawn, probed, task, **compiled)
    found = jax.tree.map(np.asarray, found)
    return _circuit(found, probed, task, np.asarray(drawn.labels), settings)


_decide = jax.jit(partial(deciding.decide, micro_batch=16), static_argnames=("settings", "searched", "narrowing"))
_survey = jax.jit(survey, static_argnames="narrowing")


def _circuit(
    found: deciding.Found, probed: Probed, task: Task, known: np.ndarray, settings: Discovery
) -> Circuit:  # fmt: skip
    choice, rows = found.choice, np.where(task.valid, known[task.chosen], -1).ravel()
    weights = question.balanced(jnp.asarray(rows), task.label, task.others, probed.logits.dtype)
    called = question.balanced_accuracy(probed.logits[task.chosen.ravel()], task.label, weights, rows == task.label)
    state = deciding.status(float(found.spread), float(called), bool(choice.compact))
    defined = state != "undefined"
    return Circuit(
        label=int(task.label),
        others=np.asarray(task.others),
        mask={layer: mask & defined for layer, mask in choice.mask.items()},
        score={layer: score if defined else np.full_like(score, -np.inf) for layer, score in choice.score.items()},
        rank=choice.rank,
        status=state,
        explained=float(choice.explained) if defined else np.nan,
        spread=float(found.spread),
        competence=float(called),
        sizes=choice.sizes,
        curve=choice.curve,
        untrimmed=int(choice.untrimmed),
        live=int(sum(live.sum() for live in choice.live.values())),
        ablation=jax.tree.map(np.asarray, probed.means) if settings.ablation == "mean-map" else ZERO,
    )


def evaluate(
    params: Params, circuit: Circuit, images: ArrayLike, labels: ArrayLike, *, ablation: Ablation | None = None,
    mean: Sequence[float] | float = 0.0, std: Sequence[float] | float = 1.0,
) -> Evaluation:  # fmt: skip
    """How well the circuit's answers are the whole model's on these images. Args and errors: as of `discover`.

    On another model than the circuit's own give `ablation`, that model's own `means`.
    """
    params, known = given.arrays(params), given.array("labels", labels)
    given.require_labels(known, len(given.array("images", images)), circuit.label, params["fc_bias"].shape[0])
    if not (known == circuit.label).any() or not np.isin(known, np.flatnonzero(circuit.others)).any():
        raise FedmiError(f"labels: give images of class {circuit.label} and of the classes that it is told from")
    options: Any = {"mean": mean, "std": std}
    if ablation is not None:
        circuit = replace(circuit, ablation=ablation)
    masked, whole = (jnp.asarray(predict(params, images, one, **options)) for one in (circuit, None))
    label, truth = jnp.asarray(circuit.label), jnp.asarray(known == circuit.label)
    weights = question.balanced(jnp.asarray(known), label, jnp.asarray(circuit.others), masked.dtype)
    compared = _compare(masked, whole, jnp.asarray(known), label, jnp.asarray(circuit.others))
    called = np.argmax(masked, -1) == circuit.label
    decides = float(question.spread(whole, jnp.asarray(known), label, jnp.asarray(circuit.others)))
    return Evaluation(
        explained=float(compared.explained) if decides >= question.LEAST_SPREAD else np.nan,
        auc=float(compared.auc),
        balanced_accuracy=float(compared.accuracy),
        call_rate=np.array(
            [called[known == c].mean() if (known == c).any() else np.nan for c in range(whole.shape[1])]
        ),
        model_balanced_accuracy=float(question.balanced_accuracy(whole, label, weights, truth)),
        bias_accuracy=float(compared.bias_accuracy),
    )


_compare = jax.jit(question.compare_with)


def predict(
    params: Params, images: ArrayLike, circuit: Circuit | None = None, *, mean: Sequence[float] | float = 0.0,
    std: Sequence[float] | float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Logits (N, Y) of the whole model, or with only the circuit's channels open. Args: as of `discover`."""
    forward = _ready(params, images, circuit, mean, std)
    index, valid = groups(np.arange(len(forward.pool.pixels)), FORWARD)
    return np.asarray(_predict(*forward, index))[valid.ravel()]


class _Forward(NamedTuple):
    """What a forward pass takes."""

    params: Params
    gates: Mapping[str, jax.Array]
    ablation: Ablation
    pool: Images


def _ready(
    params: Params, images: ArrayLike, circuit: Circuit | None, mean: Sequence[float] | float,
    std: Sequence[float] | float,
) -> _Forward:  # fmt: skip
    """Checked; no circuit: all channels are open."""
    params = given.arrays(params)
    if circuit is not None:
        given.require_fit(params, circuit.mask, circuit.others, circuit.ablation)
    pool = given.images(params, images, mean, std)
    biases = {layer: params[f"{layer}_bias"] for layer in conv_layers(params)}
    kept = {layer: np.ones(b.shape, bool) for layer, b in biases.items()} if circuit is None else circuit.mask
    gates = {layer: jnp.asarray(mask, biases[layer].dtype) for layer, mask in kept.items()}
    return _Forward(params, gates, ZERO if circuit is None else circuit.ablation, pool)


_predict = jax.jit(partial(masked_logits, narrowing=False))


def activations(
    params: Params, images: ArrayLike, circuit: Circuit | None = None, *, mean: Sequence[float] | float = 0.0,
    std: Sequence[float] | float = 1.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What every layer puts out, by name: {"conv1": (N, h_1, w_1, O_1), ..., "fc": (N, Y), the logits}.

    Of a convolution it is the output after gate, ReLU and pool, which the next layer reads; of a channel outside the
    circuit it is what replaces it. No circuit: the whole model. Args and errors: as of `discover`.
    """
    forward = _ready(params, images, circuit, mean, std)
    index, valid = groups(np.arange(len(forward.pool.pixels)), FORWARD)
    parts = [jax.tree.map(np.asarray, _activate(*forward, some)) for some in index]
    return {name: np.concatenate([part[name] for part in parts])[valid.ravel()] for name in parts[0]}


@jax.jit
def _activate(params: Params, gates: Any, ablation: Ablation, pool: Images, index: jax.Array) -> dict[str, jax.Array]:
    layers, logits = model.activations(params, pool.normalised(index), gates, ablation)
    return {**layers, "fc": logits}


def means(
    params: Params, images: ArrayLike, *, mean: Sequence[float] | float = 0.0, std: Sequence[float] | float = 1.0
) -> Ablation:
    """The model's mean outputs over these images, which should have as many of every class: what "mean-map" puts in
    place of a closed channel. Args: as of `discover`."""
    params = given.arrays(params)
    pool = given.images(params, images, mean, std)
    return jax.tree.map(np.asarray, _probed(params, pool, len(pool.pixels)).means)


def _probed(params: Params, images: Images, searched: int) -> Probed:
    index, valid = groups(np.arange(len(images.pixels)), FORWARD)
    logits, mean = _survey(params, images, index, valid & (index < searched), narrowing=_narrowing(params))
    return Probed(logits[: len(images.pixels)], mean)


def _narrowing(params: Params) -> Narrowing:
    if jax.default_backend() != "cpu":
        return False
    return "sparse" if _is_sparse(params) else True


_is_sparse = jax.jit(is_sparse)
