"""A split of the user's own: who holds what, what it is called, and what a run goes on with."""

import json

import numpy as np
import pytest
import tiny

from fedmi_jax import config
from fedmi_jax.data import own_split, partition
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import again
from fedmi_jax.federation.setup import prepare


def halves(labels, rng):
    return np.array_split(rng.permutation(len(labels)), 2)


def of_the_map(labels):
    """What the class map of tiny.experiment gives its two clients."""
    return [np.flatnonzero(np.isin(labels, classes)) for classes in ((0, 1), (1, 2, 3))]


def test_indices_are_held_as_given_whatever_their_order(squares):
    as_map = prepare(tiny.experiment(), squares)
    given = [indices[::-1].tolist() for indices in of_the_map(squares.train_labels)]
    facts = prepare(tiny.experiment(), squares, split=given)
    for one, other in zip(as_map.clients, facts.clients, strict=True):
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(expected, found)
            assert expected.dtype == found.dtype
    np.testing.assert_array_equal(as_map.counts, facts.counts)


def test_a_function_is_drawn_with_each_seed(squares):
    plain = tiny.experiment(data=config.Data(), discovery=config.Discovery(), seeds=(3, 5))
    facts = prepare(plain, squares, split=halves)
    for held in facts.clients:
        np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(len(squares.train_labels)))
    assert not np.array_equal(facts.clients[0][0], facts.clients[1][0])
    again = prepare(config.replace(plain, seeds=(5,)), squares, split=halves)
    np.testing.assert_array_equal(again.clients[0][0], facts.clients[1][0])


def named(split, labels):
    return own_split.settle(tiny.experiment(), labels, split).split


def test_the_settings_name_it(squares):
    labels = squares.train_labels
    found = named(halves, labels)
    assert (found.kind, found.clients) == ("own", 2)
    assert found.own.startswith("halves (SHA-256 ")
    given = of_the_map(labels)
    assert named(given, labels) == named([one[::-1] for one in given], labels)
    fewer = [given[0][1:], given[1]]
    cut_elsewhere = [[0, 1], [2]], [[0], [1, 2]]
    different = {named(one, labels).own for one in (given, fewer, given[::-1], *cut_elsewhere)}
    assert len(different) == 5
    assert all(own.startswith("indices (SHA-256 ") for own in different)


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ([], "there is no client"),
        (5, "one array each; got a value of type int"),
        ("iid", "one array each; got a value of type str"),
        (lambda labels, rng: None, "one array each; got nothing"),
        ([[0], []], "client 1 needs the indices of its training images, one or more in a row; got an array of the sha"),
        ([0, 1, 0], "client 0 needs the indices of its training images, one or more in a row; got a value of type int"),
        ([[0], [160]], "training images are 0 .. 159; client 1 asks for 160"),
        ([[-1]], "client 0 asks for -1"),
        ([[1, 1]], "client 0 holds an image more than once"),
        ([[True, False]], "whole numbers; got bool; numpy.flatnonzero makes"),
        ([[0.5]], "whole numbers; got float64"),
        ([[[0], [1, 2]]], "client 0 needs the indices of its training images, one or more in a row; got a value of ty"),
        ([["a"]], "whole numbers; got <U1"),
    ],
)
def test_what_is_no_split_is_refused_in_one_line(squares, split, said):
    with pytest.raises(ConfigError, match=r"^split: ") as raised:
        prepare(tiny.experiment(), squares, split=split)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_seed_has_as_many_clients(squares):
    def one_or_two(labels, rng):
        return [[0], [1]][: 1 + int(rng.random() > 0.5)]

    with pytest.raises(
        ConfigError, match=r"split: it has [12] clients with seed \d and [12] with seed 0; give as many"
    ):
        prepare(tiny.experiment(seeds=tuple(range(9))), squares, split=one_or_two)


def test_a_search_on_a_result_asks_for_the_split_that_it_was_run_with(squares):
    labels = squares.train_labels
    begun = own_split.settle(tiny.experiment(), labels, halves)
    assert again._prepared(begun, squares, halves).experiment == begun
    with pytest.raises(ConfigError, match=r"search_again\(result, split=\.\.\.\)"):
        again._prepared(begun, squares, None)
    with pytest.raises(FedmiError, match=r"^split: the result is of another one; split\.own"):
        again._prepared(begun, squares, of_the_map(labels))


def test_settings_with_it_are_json(squares):
    begun = own_split.settle(tiny.experiment(), squares.train_labels, halves)
    assert config.from_json(config.to_json(begun)) == begun
    assert json.loads(config.to_json(begun))["split"]["own"] == begun.split.own


def test_a_split_by_hand_is_the_one_that_a_kind_draws(squares):
    """The generator of a function is the one that the package's own kinds draw from."""
    labels, split = squares.train_labels, config.Split(clients=3)
    found = own_split.draw(labels, lambda labels, rng: partition._iid(labels, 4, split, rng), 7)
    for one, other in zip(found, partition.partition(labels, 4, split, 7), strict=True):
        np.testing.assert_array_equal(one, other)
