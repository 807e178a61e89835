"""The second instrument on a model of one's own: what it returns, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny

import fedmi_jax
from fedmi_jax.circuits import single
from fedmi_jax.circuits.single import Circuit
from fedmi_jax.config import Discovery
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.ablation import ZERO, MeanMap

MODEL = tiny.params(0, dtype=jnp.float32)
ARRAYS = {name: np.asarray(leaf) for name, leaf in MODEL.items()}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (70, 8, 8)).astype(np.uint8)
LABELS = np.arange(70) % tiny.CLASSES
SHAPES = {"conv1": (4, 4, 4), "conv2": (2, 2, 6), "conv3": (1, 1, 8)}


def circuit(ablation=ZERO, channels=tiny.CHANNELS, classes=tiny.CLASSES, label=1):
    """Of every other channel."""
    mask = {layer: np.arange(n) % 2 == 0 for layer, n in zip(plain.CONVOLUTIONS, channels, strict=True)}
    return Circuit(
        label=label, others=np.arange(classes) != label, mask=mask, score=mask, rank=mask, status="found",
        explained=0.9, spread=0.5, competence=1.0, sizes=np.arange(3), curve=np.ones(3), untrimmed=10, live=18,
        ablation=ablation,
    )  # fmt: skip


def test_public_names_are_these():
    assert fedmi_jax.discover is single.discover
    assert fedmi_jax.evaluate is single.evaluate
    assert fedmi_jax.predict is single.predict
    assert fedmi_jax.means is single.means
    assert {"discover", "evaluate", "means", "predict", "search_again"} <= set(dir(fedmi_jax))
    for name in fedmi_jax.__all__:
        assert getattr(fedmi_jax, name).__doc__


def test_predictions_are_the_plain_models():
    """Of whole models and of circuits; pixels and floats, normalised or not."""
    x = (PIXELS[..., None] / 255 - 0.4) / 0.3
    whole = fedmi_jax.predict(ARRAYS, PIXELS, mean=0.4, std=0.3)
    np.testing.assert_allclose(whole, plain.logits(MODEL, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fedmi_jax.predict(ARRAYS, x.astype(np.float32)), whole, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        fedmi_jax.predict(ARRAYS, PIXELS / 255.0, mean=[0.4], std=(0.3,)), whole, rtol=1e-4, atol=1e-4
    )
    gates = {layer: jnp.asarray(mask, jnp.float32) for layer, mask in circuit().mask.items()}
    kept = fedmi_jax.predict(ARRAYS, PIXELS, circuit(), mean=0.4, std=0.3)
    np.testing.assert_allclose(kept, plain.logits(MODEL, x, gates), rtol=1e-4, atol=1e-4)


def test_an_evaluation_on_another_model_uses_that_models_means():
    means = fedmi_jax.means(ARRAYS, PIXELS)
    assert isinstance(means, MeanMap)
    assert {layer: mean.shape for layer, mean in means.outputs.items()} == SHAPES
    own = fedmi_jax.evaluate(ARRAYS, circuit(means), PIXELS, LABELS)
    given = fedmi_jax.evaluate(ARRAYS, circuit(), PIXELS, LABELS, ablation=means)
    for a, b in zip(own, given, strict=True):
        np.testing.assert_array_equal(a, b)
    called = np.argmax(fedmi_jax.predict(ARRAYS, PIXELS, circuit(means)), -1) == 1
    np.testing.assert_allclose(own.call_rate, [called[c == LABELS].mean() for c in range(tiny.CLASSES)])
    wrong = np.delete(own.call_rate, 1).mean()
    assert own.balanced_accuracy == pytest.approx((own.call_rate[1] + 1 - wrong) / 2, abs=1e-6)
    assert own.explained <= 1


def test_a_class_without_images_has_no_call_rate():
    there = LABELS != 3
    found = fedmi_jax.evaluate(ARRAYS, circuit(), PIXELS[there], LABELS[there])
    assert np.isnan(found.call_rate).tolist() == [False, False, False, True]
    assert np.isfinite(found[:3]).all()


@pytest.mark.parametrize("scale", [0.0, 1e-3])
def test_a_model_that_decides_nothing_has_no_decision_to_explain(scale):
    """Any mask gives its answers, so that to explain them would be no merit."""
    silent = other("fc_kernel", np.float32(scale) * ARRAYS["fc_kernel"])
    found = fedmi_jax.evaluate(silent, circuit(), PIXELS, LABELS)
    assert np.isnan(found.explained)
    assert np.isfinite([found.auc, found.balanced_accuracy]).all()


# --- bad arguments: one line that names the argument ---


def without(*names):
    return {name: leaf for name, leaf in ARRAYS.items() if name not in names}


def other(name, leaf):
    return ARRAYS | {name: leaf}


MODELS = [
    ("params: give conv1_kernel, ", without("fc_bias")),
    ("params: give conv1_kernel, ", without("conv2_bias")),
    ("params: give conv1_kernel, ", {}),
    ("params: conv2_kernel of shape ", other("conv2_kernel", np.zeros((3, 3, 5, 6)))),
    ("params: conv2_kernel of shape ", other("conv2_kernel", np.zeros((5, 5, 4, 6)))),
    ("params: conv1_kernel of shape ", other("conv1_kernel", np.zeros((3, 4)))),
    ("params: conv3_kernel of shape ", other("conv3_bias", np.zeros(7))),
    ("params: fc_kernel of shape ", other("fc_kernel", np.zeros((8, 5)))),
    ("params: conv3_bias holds values that are not finite", other("conv3_bias", np.full(8, np.nan))),
]
IMAGES = [
    ("images: give numbers of shape (N, H, W, 1)", PIXELS[0]),
    ("images: give numbers of shape (N, H, W, 1)", PIXELS[..., None].repeat(3, -1)),
    ("images: give numbers of shape (N, H, W, 1)", PIXELS[:0]),
    ("images: give an array of numbers", PIXELS.astype(str)),
    ("images: give an array of numbers", [[1], [2, 3]]),
    ("images: some values are not finite", np.where(PIXELS > 3, 1.0, np.inf)),
    ("images: of 16 x 8 pixels the linear layer would get 16 features; fc_kernel has 8", PIXELS.repeat(2, 1)),
    ("images: of 4 x 4 pixels", PIXELS[:, :4, :4]),
]
SEARCHES = [
    ("labels: give 70 whole numbers in 0 .. 3", {"labels": LABELS[1:]}),
    ("labels: give 70 whole numbers in 0 .. 3", {"labels": LABELS * 1.0}),
    ("labels: give 70 whole numbers in 0 .. 3", {"labels": LABELS - 1}),
    ("labels: give 70 whole numbers in 0 .. 3", {"labels": LABELS + 1}),
    ("label: the model has classes 0 .. 3; got 4", {"label": 4}),
    ("label: the model has classes 0 .. 3; got -1", {"label": -1}),
    ("label: the model has classes 0 .. 3; got 'one'", {"label": "one"}),
    ("label: the model has classes 0 .. 3; got True", {"label": True}),
    ("others: give classes, as in (1, 2); got 1", {"others": 1}),
    ("seed: give a whole number, 0 or more; got 1.5", {"seed": 1.5}),
    ("settings: give a fedmi_jax.config.Discovery; got dict", {"settings": {"objective": "decision"}}),
    ("params: give the model's arrays by name; got NoneType", {"params": None}),
    ("others: give other classes than 1, of 0 .. 3; got []", {"others": []}),
    ("others: give other classes than 1, of 0 .. 3; got [1]", {"others": [1]}),
    ("others: give other classes than 1, of 0 .. 3; got [0, 7]", {"others": (0, 7)}),
    ("seed: give a whole number, 0 or more; got -1", {"seed": -1}),
    ("mean, std: one number, or 1, one a channel", {"mean": (0.1, 0.2)}),
    ("mean, std: one number, or 1, one a channel, and std above 0", {"std": 0}),
    ('settings.ablation: "mean" needs ', {"settings": Discovery(ablation="mean")}),
    ("discovery.probe: 500 + 200 images of every class are asked for, but class 0 has 18 ", {}),
]


def refused(message, call, *args, **options):
    with pytest.raises(FedmiError) as caught:
        call(*args, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("message", "model"), MODELS)
def test_a_model_that_is_none(message, model):
    refused(message, fedmi_jax.predict, model, PIXELS)
    refused(message, fedmi_jax.discover, model, PIXELS, LABELS, 1)


@pytest.mark.parametrize(("message", "images"), IMAGES)
def test_images_that_do_not_fit(message, images):
    refused(message, fedmi_jax.predict, ARRAYS, images)
    refused(message, fedmi_jax.means, ARRAYS, images)
    refused(message, fedmi_jax.discover, ARRAYS, images, LABELS, 1)


@pytest.mark.parametrize(("message", "changes"), SEARCHES)
def test_a_search_that_cannot_be(message, changes):
    refused(message, fedmi_jax.discover, **{"params": ARRAYS, "images": PIXELS, "labels": LABELS, "label": 1} | changes)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("discovery.target: ", {"target": 0}),
        ("discovery.target: ", {"target": 1}),
        ("discovery.masks: an even number", {"masks": 3}),
        ("discovery.batch_size: an even number", {"batch_size": 15, "gates": "step"}),
        ("discovery.batch_size: a multiple of twice discovery.masks, 16, ", {"batch_size": 24}),
        ("discovery.probe: half a batch, 64 images, are of one class; the probe has 40 ", {"probe": (40, 10)}),
        ("discovery.ablation: ", {"ablation": "mean"}),
    ],
)
def test_settings_that_do_not_go_together_are_refused_when_made(message, changes):
    refused(message, Discovery, objective="decision", **changes)


def test_a_circuit_of_another_model():
    refused("circuit: of a model with channels 4 6 9; this one has 4 6 8", fedmi_jax.predict, ARRAYS, PIXELS,
            circuit(channels=(4, 6, 9)))  # fmt: skip
    refused("circuit: of a model with channels 4 6; ", fedmi_jax.evaluate, ARRAYS,
            shallow(), PIXELS, LABELS)  # fmt: skip
    refused("circuit: of a model with 5 classes; this one has 4", fedmi_jax.evaluate, ARRAYS, circuit(classes=5),
            PIXELS, LABELS)  # fmt: skip
    narrow = fedmi_jax.means(tiny.params(0, channels=(4, 6, 7), dtype=jnp.float32), PIXELS)
    refused("ablation: of a model with channels 4 6 7; this one has 4 6 8", fedmi_jax.evaluate, ARRAYS, circuit(),
            PIXELS, LABELS, ablation=narrow)  # fmt: skip


def shallow():
    two = circuit()
    return Circuit(**vars(two) | {"mask": {layer: two.mask[layer] for layer in ("conv1", "conv2")}})


@pytest.mark.parametrize("kept", [LABELS == 1, LABELS != 1])
def test_an_evaluation_needs_both_sides(kept):
    refused("labels: give images of class 1 and of the classes that it is told from", fedmi_jax.evaluate, ARRAYS,
            circuit(), PIXELS[kept], LABELS[kept])  # fmt: skip


def test_activations_are_what_every_layer_puts_out():
    """Of the whole model and of a circuit, whose other channels are 0; the last layer is what `predict` gives."""
    whole, kept = (fedmi_jax.activations(ARRAYS, PIXELS, one, mean=0.4, std=0.3) for one in (None, circuit()))
    assert {name: value.shape for name, value in whole.items()} == {
        **{layer: (70, *shape) for layer, shape in SHAPES.items()}, "fc": (70, tiny.CLASSES),
    }  # fmt: skip
    np.testing.assert_array_equal(kept["fc"], fedmi_jax.predict(ARRAYS, PIXELS, circuit(), mean=0.4, std=0.3))
    np.testing.assert_array_equal(kept["conv1"][..., 1::2], 0)
    np.testing.assert_array_equal(kept["conv1"][..., ::2], whole["conv1"][..., ::2])
    by_hand = whole["conv3"].reshape(70, -1) @ ARRAYS["fc_kernel"] + ARRAYS["fc_bias"]
    np.testing.assert_allclose(whole["fc"], by_hand, rtol=1e-4, atol=1e-4)
    means = fedmi_jax.means(ARRAYS, PIXELS, mean=0.4, std=0.3)
    replaced = fedmi_jax.activations(ARRAYS, PIXELS, circuit(means), mean=0.4, std=0.3)["conv1"][..., 1]
    np.testing.assert_array_equal(replaced, np.broadcast_to(means.outputs["conv1"][..., 1], replaced.shape))
