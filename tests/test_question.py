"""What there is to explain, and how much of it answers explain: against closed forms and slow plain versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from fedmi_jax.circuits import question as q

CLASSES, LABEL = 4, 2
OTHERS = np.arange(CLASSES) != LABEL
pytestmark = pytest.mark.usefixtures("x64")


def some(seed=0, n=60, scale=2.0):
    """Logits of no model, labels of which the first ones hold every class, and the question in them."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, n - CLASSES)])
    logits = scale * rng.normal(size=(n, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    return jnp.asarray(logits), jnp.asarray(labels)


def asked(logits, labels, truth=None, others=OTHERS):
    weights = q.balanced(labels, LABEL, others, logits.dtype)
    return q.ask(logits, LABEL, q.temperature(logits, LABEL, weights), weights, truth)


def plain_entropy(p):
    return -sum(x * np.log(x) for x in (p, 1 - p) if x > 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_models_own_answers_explain_everything(seed):
    logits, labels = some(seed)
    assert q.explained(logits, asked(logits, labels)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_answers_that_do_not_depend_on_the_image_explain_nothing(seed, contrast):
    """At most 0, and 0 for the best of them: the base rate of the answers that are asked for."""
    logits, labels = some(seed)
    question = asked(logits, labels, labels == LABEL if contrast else None)
    rng = np.random.default_rng(seed)
    for constant in rng.normal(0, 5, (50, CLASSES)):
        assert q.explained(jnp.tile(constant, (len(labels), 1)), question) <= 1e-12
    rate = float(jnp.sum(question.weights * question.answers))
    best = np.zeros(CLASSES)  # each other class has the log-odds of the rest shared out
    best[LABEL] = question.temperature * (np.log(rate / (1 - rate)) + np.log(CLASSES - 1))
    assert q.explained(jnp.tile(best, (len(labels), 1)), question) == pytest.approx(0, abs=1e-12)
    best[LABEL] += 0.5
    assert q.explained(jnp.tile(best, (len(labels), 1)), question) < -1e-3


def test_the_spread_is_the_entropy_between_images():
    logits, labels = some()
    question = asked(logits, labels)
    weights, answers = (np.asarray(part) for part in (question.weights, question.answers))
    within = sum(w * plain_entropy(p) for w, p in zip(weights, answers, strict=True))
    assert question.spread == pytest.approx(plain_entropy(weights @ answers) - within, rel=1e-12)
    assert asked(logits, labels, labels == LABEL).spread == pytest.approx(np.log(2), rel=1e-12)


def test_explained_is_the_mean_divergence_over_that_of_the_best_constant():
    (whole, labels), (masked, _) = some(0), some(1)
    question = asked(whole, labels)
    t, total = float(question.temperature), 0
    for z, w, p in zip(np.asarray(masked), np.asarray(question.weights), np.asarray(question.answers), strict=True):
        own = np.exp(z[LABEL] / t) / np.exp(z / t).sum()
        total += w * (p * np.log(p / own) + (1 - p) * np.log((1 - p) / (1 - own)))
    assert q.explained(masked, question) == pytest.approx(1 - total / float(question.spread), rel=1e-12)


@pytest.mark.parametrize("single", [True, False])
def test_certain_answers_are_no_nan(single):
    """At probabilities that are 0 and 1 to the last bit."""
    logits, labels = some(scale=0)
    logits = (1e5 * logits).astype(jnp.float32 if single else jnp.float64)

    @jax.jit
    def explained(logits):
        plain = q.ask(logits, LABEL, jnp.ones((), logits.dtype), q.balanced(labels, LABEL, OTHERS, logits.dtype))
        return plain.spread, q.explained(logits, plain)

    with jax.debug_nans(True):
        spread, share = explained(logits)
    assert spread == pytest.approx(np.log(2), rel=1e-6)
    assert share == pytest.approx(1, abs=1e-6)


def test_half_of_the_weight_is_on_the_class_and_each_other_class_has_the_same():
    labels = jnp.array([2, 2, 2, 0, 1, 1, 3, -1, 0])
    weights = np.asarray(q.balanced(labels, LABEL, np.array([True, True, False, False]), jnp.float64))
    assert weights.tolist() == pytest.approx([1 / 6] * 3 + [1 / 8, 1 / 8, 1 / 8, 0, 0, 1 / 8])
    without = np.asarray(q.balanced(labels, LABEL, np.array([False, True, True, False]), jnp.float64))
    assert without.tolist() == pytest.approx([1 / 6] * 3 + [0, 1 / 4, 1 / 4, 0, 0, 0])


@pytest.mark.parametrize(
    ("labels", "others"),
    [([2, 2], OTHERS), ([0, 1], OTHERS), ([2, 0], np.zeros(CLASSES, bool)), ([2, 0], np.arange(CLASSES) == LABEL)],
    ids=["class alone", "no class", "no others", "the class itself"],
)
def test_where_there_is_nothing_to_tell_apart_there_is_nothing_to_explain(labels, others):
    logits, labels = jnp.asarray(np.random.default_rng(0).normal(size=(2, CLASSES))), jnp.asarray(labels)
    with jax.debug_nans(True):
        question = jax.jit(asked)(logits, labels, others=others)
        compared = jax.jit(q.compare_with)(logits, logits, labels, LABEL, others)
    assert question.weights.tolist() == [0, 0]
    assert question.spread == 0
    assert compared.auc == compared.bias_accuracy == 0.5


def test_temperature_is_half_the_spread_of_the_lead_and_at_least_one():
    logits, labels = some(scale=6)
    weights = np.asarray(q.balanced(labels, LABEL, OTHERS, logits.dtype))
    lead = np.asarray([z[LABEL] - max(np.delete(z, LABEL)) for z in np.asarray(logits)])
    expected = np.sqrt(weights @ (lead - weights @ lead) ** 2) / 2
    assert expected > 1
    assert q.temperature(logits, LABEL, weights) == pytest.approx(expected, rel=1e-12)
    assert q.temperature(logits / 100, LABEL, weights) == 1


@pytest.mark.parametrize("times", [10, 100])
def test_a_more_confident_model_asks_the_same(times):
    (logits, labels), (masked, _) = some(0, scale=6), some(1, scale=6)
    once, more = asked(logits, labels), asked(times * logits, labels)
    assert once.temperature > 1
    assert q.explained(times * masked, more) == pytest.approx(float(q.explained(masked, once)), rel=1e-12)


def bias_refitted(score, truth, weights):
    """Of two classes, each of which is one side."""
    return q.bias_accuracy(score, truth, weights, q.every_second(truth.astype(int), 2))


def by_scipy(score, truth, weights):
    """The bias by a library's search for the least cross-entropy, on each half, judged on the other."""
    even = np.zeros(len(score), bool)
    for side in (truth, ~truth):
        even[np.flatnonzero(side)[1::2]] = True
    halves, found = (even, ~even), []
    for fitted, other in (halves, halves[::-1]):
        sides = [np.where(fitted & side, weights, 0) for side in (truth, ~truth)]
        both = sum(side / side.sum() for side in sides)

        def loss(bias, both=both):
            return both @ np.logaddexp(0, np.where(truth, -1, 1) * (score + bias))

        bias = minimize_scalar(loss, bounds=(-50, 50), method="bounded", options={"xatol": 1e-10}).x
        right = (score + bias > 0) == truth
        rates = [np.average(right[other & side], weights=weights[other & side]) for side in (truth, ~truth)]
        found.append(np.mean(rates))
    return np.mean(found)


@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_a_bias_is_refitted_on_one_half_and_judged_on_the_other(shift):
    """Whatever bias the scores had; and what is evidence and no answer is an answer again."""
    rng = np.random.default_rng(3)
    truth = rng.random(200) < 0.3
    score, weights = rng.normal(size=200) + 2.5 * truth + shift, rng.random(200) + 0.1
    found = float(jax.jit(bias_refitted)(jnp.asarray(score), jnp.asarray(truth), jnp.asarray(weights)))
    assert found == pytest.approx(by_scipy(score, truth, weights), rel=1e-9)
    assert 0.8 < found < 0.99
    as_it_is = np.mean([np.average(((score > 0) == truth)[side], weights=weights[side]) for side in (truth, ~truth)])
    assert (as_it_is < 0.55) == (shift > 0)


def test_a_bias_helps_no_score_that_knows_nothing():
    rng = np.random.default_rng(4)
    found = [
        float(bias_refitted(jnp.asarray(rng.normal(size=400)), jnp.asarray(rng.random(400) < 0.5), jnp.ones(400)))
        for _ in range(20)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    same = bias_refitted(jnp.ones(8), jnp.arange(8) < 4, jnp.ones(8))
    one_side = bias_refitted(jnp.arange(8.0), jnp.ones(8, bool), jnp.ones(8))
    assert (float(same), float(one_side)) == (0.5, 0.5)


def test_both_halves_have_images_of_every_class_in_whatever_order_they_come():
    """Also where classes take turns, so that every second image is of one class; padding is in neither."""
    for labels in (np.arange(60) % 3, np.repeat(np.arange(3), 20), np.random.default_rng(0).permutation(60) % 3):
        half = np.asarray(q.every_second(jnp.asarray(labels), 3))
        assert [int(half[labels == c].sum()) for c in range(3)] == [10, 10, 10]
    padded = jnp.asarray([0, 1, -1, -1, 0, 1])
    assert np.asarray(q.every_second(padded, 2))[[0, 1, 4, 5]].tolist() == [False, False, True, True]
    logits = jnp.where(jnp.arange(40)[:, None] % 2 == jnp.arange(2), 3.0, 0.0)
    compared = q.compare_with(logits, logits, jnp.arange(40) % 2, jnp.asarray(0), jnp.asarray([False, True]))
    assert float(compared.bias_accuracy) == 1


def test_auc_counts_pairs():
    """With ties, weights, and images of neither."""
    rng = np.random.default_rng(0)
    score, truth = rng.integers(0, 6, 40) / 2, rng.random(40) < 0.4
    weights = rng.random(40) * (rng.random(40) < 0.8)
    won = total = 0.0
    for i in np.flatnonzero(truth):
        for j in np.flatnonzero(~truth):
            pair = weights[i] * weights[j]
            won += pair * ((score[i] > score[j]) + (score[i] == score[j]) / 2)
            total += pair
    assert q.auc(jnp.asarray(score), jnp.asarray(truth), jnp.asarray(weights)) == pytest.approx(won / total, rel=1e-12)


def test_margin_is_the_log_odds():
    logits, _ = some()
    p = np.asarray(jax.nn.softmax(logits / 3))[:, LABEL]
    np.testing.assert_allclose(q.margin(logits, LABEL, 3), np.log(p / (1 - p)), rtol=1e-12)


def test_whole_comparison_against_plain_counts():
    (whole, labels), (masked, _) = some(0), some(1)
    found = q.compare_with(masked, whole, labels, LABEL, OTHERS)
    weights = np.asarray(q.balanced(labels, LABEL, OTHERS, whole.dtype))
    truth = np.asarray(labels) == LABEL
    called, wanted = (np.asarray(z).argmax(-1) == LABEL for z in (masked, whole))
    others = [1 - called[np.asarray(labels) == c].mean() for c in np.flatnonzero(OTHERS)]
    assert found.accuracy == pytest.approx((called[truth].mean() + np.mean(others)) / 2, rel=1e-12)
    assert found.agreement == pytest.approx(weights[called == wanted].sum(), rel=1e-12)
    assert found.constant_agreement == pytest.approx(max(weights[wanted].sum(), weights[~wanted].sum()), rel=1e-12)
    assert found.explained == pytest.approx(float(q.explained(masked, asked(whole, labels))), rel=1e-12)
    plain = q.ask(whole, LABEL, jnp.ones(()), jnp.asarray(weights))
    assert found.explained_plain == pytest.approx(float(q.explained(masked, plain)), rel=1e-12)
    assert q.balanced_accuracy(masked, LABEL, weights, truth) == pytest.approx(float(found.accuracy), rel=1e-12)
