"""Which images a run was made of: any change of them is another fingerprint, and runs on others are kept apart."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import xarray as xr
from made_up import complete, result
from rich.console import Console

from fedmi_jax.analysis import runs
from fedmi_jax.cli import main, tables
from fedmi_jax.config import Data, Split
from fedmi_jax.data import datasets, identity
from fedmi_jax.data.identity import MNIST, ImageSet
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import figures
from fedmi_jax.results import connectivity, similarity, store
from fedmi_jax.results.schema import fill
from fedmi_jax.results.similarity import MEASURES
from fedmi_jax.results.summary import summary

OTHERS = ImageSet("mnist", (28, 28, 1), 60_000, 10_000, "ab" * 32, ("T-shirt", "trouser"))
"""Images that are passed from Python under the name of MNIST."""


def test_the_embedded_mnist_is_the_papers():
    assert identity.describe(datasets.load(Data())) == MNIST


def test_a_set_is_told_by_all_that_is_in_it():
    squares = tiny.squares()
    one = identity.describe(squares)
    assert one == identity.describe(tiny.squares())
    assert (one.name, one.image_shape, one.training_images, one.test_images) == ("squares", (8, 8, 1), 160, 48)
    assert one.class_names == ("0", "1", "2", "3")
    assert identity.from_json(json.dumps(identity.to_values(one))) == one
    changes = [{"name": "mnist"}, {"class_names": tuple("abcd")}, {"mean": (0.4,)}, {"std": (0.4,)}]
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        other = getattr(squares, field).copy()
        other.flat[-1] ^= 1
        changes.append({field: other})
    prints = [identity.fingerprint(replace(squares, **change)) for change in changes]
    assert len({one.sha256, *prints}) == 1 + len(changes)


def test_sets_are_the_same_by_fingerprint_or_else_by_name():
    renamed = replace(OTHERS, name="fashion_mnist")
    assert OTHERS.is_same(renamed)
    assert not OTHERS.is_same(MNIST)
    assert ImageSet("mnist").is_same(OTHERS)
    assert not ImageSet("mnist").is_same(renamed)
    assert str(renamed) == "fashion_mnist (SHA-256 abababab...)"
    assert str(ImageSet("fashion_mnist")) == "fashion_mnist"


def test_a_run_keeps_what_it_was_made_of(counted_run, squares):
    run = counted_run[0]
    assert store.images(run) == identity.describe(squares)
    assert summary(run)["dataset"]["name"] == "squares"  # its configuration says mnist
    assert '"name": "mnist"' in run.attrs["config"]


def on(images, kind="one-class", **how):
    """A run's result on these images; None: from before they were recorded."""
    made = result(kind, **{"seeds": 1, "rounds": 2, **how})
    return made if images is None else made.assign_attrs(dataset=json.dumps(identity.to_values(images)))


def test_old_files_count_as_what_their_configuration_says():
    assert store.images(on(None)) == MNIST
    assert store.images(on(None, data=Data(name="fashion_mnist"))) == ImageSet("fashion_mnist")


@pytest.mark.parametrize(
    ("name", "images", "expected"),
    [
        ("mnist", None, "one-class"),
        ("mnist", MNIST, "one-class"),
        ("mnist", OTHERS, None),
        ("fashion_mnist", None, None),
        ("fashion_mnist", replace(OTHERS, name="fashion_mnist"), None),
    ],
)
def test_only_mnist_is_the_papers(name, images, expected):
    ds = on(images, data=Data(name=name))
    assert runs.kind(ds) == expected
    found = runs.differences(expected or "one-class-on-it", ds)
    told = f"dataset {images or name} (mnist)"
    assert found == (["rounds 2 (10)"] if expected else [told])


@pytest.fixture
def shelf(monkeypatch):
    """Results by their paths, as if they were on disk."""
    found = {}
    monkeypatch.setattr(runs, "find", lambda folders: list(found))
    monkeypatch.setattr(store, "load", found.__getitem__)
    return found


def test_claims_refuse_other_images_in_one_line(shelf, capsys):
    shelf[Path("a/result.nc")] = on(OTHERS)
    assert main.main(["claims", "."]) == 2
    prints = [f"mnist (SHA-256 {part}...)" for part in ("abababab", "102f3e19")]
    said = f"a/result.nc: its images are {prints[0]}, not {prints[1]}; leave it out"
    assert capsys.readouterr().err == f"fedmi: {said}\n"


def test_runs_on_other_images_have_a_name_of_their_own_and_are_not_joined(shelf):
    fashion = ImageSet("fashion", sha256="cd" * 32)
    all_ = {"a": on(None), "b": on(MNIST).assign_coords(seed=[1]), "c": on(fashion), "d": on(OTHERS)}
    shelf.update({Path(name): ds for name, ds in all_.items()})
    found = runs.gather([])
    assert {name: ds["seed"].values.tolist() for name, ds in found.items()} == {
        "one-class": [0, 1], "one-class-on-fashion": [0], "one-class-on-mnist": [0],
    }  # fmt: skip
    shelf[Path("e")] = on(replace(fashion, sha256="ef" * 32)).assign_coords(seed=[1])
    with pytest.raises(FedmiError) as caught:
        runs.gather([])
    prints = [f"fashion (SHA-256 {4 * letter}...)" for letter in ("ef", "cd")]
    assert str(caught.value) == f"e: its images are {prints[0]}, but those of c are {prints[1]}; give one of the two"


@pytest.mark.parametrize(("images", "expected"), [(replace(OTHERS, name="fashion"), "fashion"), (None, "mnist")])
def test_a_summary_tells_the_true_name(images, expected):
    short = summary(on(images))
    assert short["dataset"]["name"] == expected
    console = Console(width=100, file=io.StringIO())
    tables.print_summary(short, console)
    assert f"images of {expected}" in console.file.getvalue()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 1}', '{"name": "x", "image_shape": [1, 2]}'])
def test_what_is_no_set_is_refused(text):
    with pytest.raises(FedmiError, match=r"^dataset"):
        identity.from_json(text)


def test_arrays_need_not_be_in_one_piece():
    squares = tiny.squares()
    turned = np.asfortranarray(squares.train_images)
    assert identity.fingerprint(replace(squares, train_images=turned)) == identity.fingerprint(squares)


# --- seeds that draw who holds what ---


def drawn(classes, held):
    """A run of a Dirichlet split. classes: its labels; held [seed, client, class]: who analyses which."""
    own = (tuple(classes), classes[:1], classes[-1:])
    split = Split(kind="dirichlet", clients=3)
    ds = complete("one-class", true=8, own=own, seeds=len(held), rounds=2, split=split, local=lambda s, r, k, c: k + c)
    ds["analysed"].values[:] = held
    for name, values in ds.items():
        if {"client", "class"} <= set(values.dims) and name != "analysed":
            ds[name] = values.where(ds["analysed"], fill(values.dtype)).transpose(*values.dims).astype(values.dtype)
    similar = [name for name in ds if any(name in (m, f"empty_pairs_{m.removesuffix('_iou')}") for m in MEASURES)]
    return connectivity.edges(similarity.measures(ds.drop_vars(similar)))


def test_seeds_of_a_drawn_split_are_joined_as_if_they_had_been_run_together(shelf, tmp_path):
    held = np.array([[[1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]]], bool)
    together = drawn([0, 1, 3, 6], held)
    for seed, labels in enumerate(([0, 1, 3], [0, 3, 6])):
        alone = together.sel(seed=[seed])
        alone = alone.sel(dict.fromkeys(("class", "other_class"), labels))
        shelf[Path(str(seed))] = alone
    (found,) = runs.gather([]).values()
    xr.testing.assert_identical(found[sorted(together)], together[sorted(together)])
    assert {name: values.dtype for name, values in found.items()} == {n: v.dtype for n, v in together.items()}
    drawn_, problems = figures.draw_all({"dirichlet": found}, tmp_path, (), ("svg",))
    assert problems == []
    assert len(drawn_) >= len(figures.PER_RUN) - 1
