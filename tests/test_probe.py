"""The analyst's images: who is drawn, in which batches, with which draws of the gates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax.config import Discovery
from fedmi_jax.data import probe
from fedmi_jax.errors import ConfigError

CLASSES, CHANNELS = 7, 5
quick = settings(max_examples=40, deadline=None)


def asking(**changes):
    plain = {"objective": "decision", "probe": (24, 10), "batch_size": 32, "masks": 4, "steps": 9}
    return Discovery(**plain | changes)


def plan_of(others, search, key=(0, 3, 1, 0, 2), label=2):
    return probe.search_plan(label, others, search, key, CHANNELS)


some_others = st.sets(st.sampled_from([c for c in range(CLASSES) if c != 2]), min_size=1).map(
    lambda chosen: np.isin(np.arange(CLASSES), list(chosen))
)


@quick
@given(some_others, st.sampled_from([(2, 32), (4, 32), (8, 48), (4, 8)]), st.sampled_from(["step", "bernoulli"]))
def test_every_batch_and_every_sample_of_it_is_balanced(others, sizes, gates):
    masks, batch = sizes
    search = asking(masks=masks, batch_size=batch, gates=gates)
    plan, draws = plan_of(others, search)
    assert plan.indices.shape == plan.weight.shape == (search.steps, batch)
    assert draws.shape == (search.steps, masks // 2, CHANNELS)
    assert (plan.weight == 1 / batch).all()
    assert plan.steps == search.steps
    labels = plan.indices // search.probe[0]
    assert labels.max() < CLASSES  # of those to search on
    for index, of in zip(plan.indices, labels, strict=True):
        assert len(set(index)) == batch  # no image twice
        counts = np.bincount(of, minlength=CLASSES)
        assert counts[2] == batch // 2
        assert counts[others].sum() == batch // 2
        assert np.ptp(counts[others]) <= 1
        samples = of.reshape(masks if gates == "bernoulli" else 1, -1)
        assert ((samples == 2).mean(1) == 0.5).all()


@quick
@given(some_others)
def test_the_other_classes_take_turns(others):
    """Over as many steps as there are others, each has been seen equally often."""
    count = int(others.sum())
    plan, _ = plan_of(others, asking(steps=3 * count))
    counts = np.bincount((plan.indices // 24).ravel(), minlength=CLASSES)
    assert np.ptp(counts[others]) == 0


def test_images_of_a_class_are_all_seen_before_one_is_seen_again():
    plan, _ = plan_of(np.arange(CLASSES) != 2, asking(batch_size=16, steps=12))
    own = plan.indices[plan.indices // 24 == 2].reshape(12, 8)
    for a_pass in own.reshape(4, 24):
        assert sorted(a_pass) == list(range(48, 72))


def test_other_keys_other_draws_and_equal_keys_equal_ones():
    others = np.arange(CLASSES) != 2
    plans = [
        plan_of(others, asking(), key) for key in [(0, 3, 1, 0, 2), (0, 3, 1, 0, 2), (0, 4, 1, 0, 2), (1, 3, 1, 0, 2)]
    ]
    (one, same, *different) = [(plan.indices, draws) for plan, draws in plans]
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    for other in different:
        for a, b in zip(one, other, strict=True):
            assert (a == b).mean() < 0.2
    _, draws = plan_of(others, asking(steps=2000))
    assert np.abs(np.bincount(draws.ravel(), minlength=256) / draws.size * 256 - 1).max() < 0.6  # all of 0 to 255
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.03


def test_without_another_class_there_is_no_step():
    plan, draws = plan_of(np.zeros(CLASSES, bool), asking())
    assert plan.steps == 0
    assert (plan.weight == 0).all()
    assert plan.indices.shape == (9, 32)
    assert draws.shape == (9, 2, CHANNELS)


def test_the_class_alone_for_the_papers_objective():
    plan, _ = plan_of(np.arange(CLASSES) != 2, asking(objective="class", gates="bernoulli", batch_size=16))
    assert (plan.indices // 24 == 2).all()
    assert plan.indices.shape == (9, 16)


def test_what_is_drawn_is_of_every_class_and_no_image_twice():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), 40))
    drawn = probe.draw(labels, CLASSES, (24, 10), seed=3)
    assert len(set(drawn.tolist())) == len(drawn) == CLASSES * 34
    np.testing.assert_array_equal(labels[drawn[: 24 * CLASSES]], np.repeat(np.arange(CLASSES), 24))
    np.testing.assert_array_equal(labels[drawn[24 * CLASSES :]], np.repeat(np.arange(CLASSES), 10))
    np.testing.assert_array_equal(drawn, probe.draw(labels, CLASSES, (24, 10), seed=3))
    assert (drawn != probe.draw(labels, CLASSES, (24, 10), seed=4)).mean() > 0.8
    with pytest.raises(ConfigError, match=r"^discovery\.probe: 30 \+ 11 .* class 0 has 40 training images; [^\n]*$"):
        probe.draw(labels, CLASSES, (30, 11), seed=3)


@quick
@given(some_others, st.integers(1, 40), st.integers(1, 60))
def test_sizes_are_chosen_on_as_many_of_the_class_as_of_others(others, judged, batch):
    """And on none that was searched on, whatever the number of others."""
    places, valid = probe.selection(2, others, (24, judged), batch)
    assert places.shape == valid.shape == (-(-(2 * judged + CLASSES) // batch), batch)
    real = places[valid]
    assert len(set(real.tolist())) == len(real)
    assert real.min() >= 24 * CLASSES
    counts = np.bincount((real - 24 * CLASSES) // judged, minlength=CLASSES)
    assert counts[2] == judged
    assert (counts[others] == -(-judged // others.sum())).all()
    assert counts.sum() == judged + counts[others].sum()


def test_who_the_others_are():
    held = np.isin(np.arange(CLASSES), [2, 5])
    assert probe.others(2, held, CLASSES, "probe").tolist() == [True, True, False, True, True, True, True]
    assert np.flatnonzero(probe.others(2, held, CLASSES, "own")).tolist() == [5]
    assert not probe.others(2, np.arange(CLASSES) == 2, CLASSES, "own").any()
