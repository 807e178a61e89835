"""Images of one's own: every format gives the same set, odd cases are taken or refused in one line."""

import csv
import gzip
import json
import os
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import fedmi_jax
from fedmi_jax.cli import main
from fedmi_jax.config import Data, Split, from_json, to_json
from fedmi_jax.data import datasets, identity
from fedmi_jax.data.formats.raw import natural
from fedmi_jax.errors import FedmiError
from fedmi_jax.keeping import manifest
from fedmi_jax.presets import experiment

KINDS = {"u1": 0x08, "i4": 0x0C, "f4": 0x0D}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FEDMI_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- the same images in every format, each written here by hand or by another library ---


def write_npz(folder, arrays, names):
    np.savez(folder / "mine.npz", class_names=names, **arrays)
    return folder / "mine.npz"


def write_idx(folder, arrays, names, zipped=False):
    home = folder / "mine"
    home.mkdir()
    for key, array in arrays.items():
        content, part = key.split("_")
        word = {"x": "images", "y": "labels"}[content]
        values = array.astype(np.uint8)
        head = struct.pack(f">BBBB{values.ndim}I", 0, 0, KINDS["u1"], values.ndim, *values.shape)
        whole = head + values.tobytes()
        name = f"{'t10k' if part == 'test' else part}-{word}-idx{values.ndim}-ubyte"
        (home / f"{name}{'.gz' * zipped}").write_bytes(gzip.compress(whole) if zipped else whole)
    (home / "class_names.txt").write_text("\n".join(names))
    return home


def write_folders(folder, arrays, names):
    for part in ("train", "test"):
        for name in names:
            (folder / "mine" / part / name).mkdir(parents=True)
        for i, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            Image.fromarray(image).save(folder / "mine" / part / names[label] / f"{i:03}.png")
    return folder / "mine"


def write_csv(folder, arrays, names):
    shape = arrays["x_train"].shape[1:]
    columns = ["x".join(str(k + 1) for k in place) for place in np.ndindex(shape)]
    with open(folder / "mine.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "split", *columns])
        for part in ("train", "test"):
            for image, label in zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True):
                writer.writerow([names[label], part, *image.ravel().tolist()])
    return folder / "mine.csv"


def write_list(folder, arrays, names):
    with open(folder / "mine.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "split"])
        for part in ("train", "test"):
            for i, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
                Image.fromarray(image).save(folder / f"{part}{i}.png")
                writer.writerow([f"{part}{i}.png", names[label], part])
    return folder / "mine.csv"


FORMATS = {
    "npz": write_npz, "idx": write_idx, "idx.gz": lambda *of: write_idx(*of, zipped=True), "folders": write_folders,
    "csv": write_csv, "csv of files": write_list,
}  # fmt: skip


@st.composite
def sets(draw):
    """Grey or RGB images of any size, sorted by class as folders give them, with every class in training."""
    height, width = draw(st.integers(4, 9)), draw(st.integers(4, 9))
    shape = (height, width, 3) if draw(st.booleans()) else (height, width)
    names = sorted(draw(st.sets(st.text("abcXYZ -é", min_size=1, max_size=6).map(str.strip), min_size=2, max_size=4)))
    names = [name for name in names if name and not name.startswith(".")] or ["only"]
    names = sorted(names, key=natural)
    arrays = {}
    for part in ("train", "test"):
        labels = sorted(draw(st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=4)))
        labels = sorted([*labels, *range(len(names))]) if part == "train" else labels
        arrays[f"x_{part}"] = draw(hnp.arrays(np.uint8, (len(labels), *shape)))
        arrays[f"y_{part}"] = np.array(labels)
    return arrays, names


@settings(max_examples=8)
@given(sets())
def test_every_format_gives_the_same_set(tmp_path_factory, made):
    arrays, names = made
    found = {}
    for name, write in FORMATS.items():
        path = write(tmp_path_factory.mktemp("set"), arrays, names)
        found[name] = fedmi_jax.from_file(path)
        assert fedmi_jax.from_file(path).train_images.tobytes() == found[name].train_images.tobytes()  # from the cache
    images = arrays["x_train"].reshape(*arrays["x_train"].shape[:3], -1)
    for name, one in found.items():
        np.testing.assert_array_equal(one.train_images, images, name)
        np.testing.assert_array_equal(one.test_labels, arrays["y_test"], name)
        assert (one.name, one.class_names, one.note) == ("mine", tuple(names), ""), name
        np.testing.assert_allclose(one.mean, (images / 255).mean((0, 1, 2)), atol=1e-12)
    assert len({identity.fingerprint(one) for one in found.values()}) == 1


# --- what else a file may hold ---


def arrays(n=12, shape=(8, 8), classes=3):
    rng = np.random.default_rng(0)
    made = {f"x_{part}": rng.integers(0, 256, (n, *shape)).astype(np.uint8) for part in ("train", "test")}
    return made | {f"y_{part}": np.arange(n) % classes for part in ("train", "test")}


@pytest.fixture
def saved(tmp_path):
    """A .npz file of `arrays` with these changes; None takes one away."""

    def save(**changes):
        whole = {name: values for name, values in (arrays() | changes).items() if values is not None}
        np.savez(tmp_path / "own.npz", **whole)
        return tmp_path / "own.npz"

    return save


def both(change):
    return {name: change(values) for name, values in arrays().items() if name.startswith("x")}


def labels(change):
    return {name: change(values) for name, values in arrays().items() if name.startswith("y")}


PLAIN = arrays()
IMAGES = {
    "floats in 0 .. 1": both(lambda x: (x / 255).astype(np.float32)),
    "whole floats": both(lambda x: x.astype(float)),
    "other whole numbers": both(lambda x: x.astype(np.int64)),
    "channels last": both(lambda x: x[..., None]),
    "channels first": both(lambda x: x[:, None]),
    "flat": both(lambda x: x.reshape(len(x), -1)),
    "labels from 1": labels(lambda y: y + 1),
    "labels in a column": labels(lambda y: y[:, None]),
    "whole float labels": labels(lambda y: y.astype(float)),
    "one-hot": labels(lambda y: np.eye(3)[y]),
    "names": labels(lambda y: np.array(["a", "b", "c"])[y]),
    "bytes": labels(lambda y: np.array([b"a", b"b", b"c"])[y]),
}


@pytest.mark.parametrize("how", IMAGES)
def test_other_ways_to_write_the_same(how, saved):
    found = fedmi_jax.from_file(saved(**IMAGES[how]))
    np.testing.assert_array_equal(found.train_images[..., 0], PLAIN["x_train"])
    assert found.train_labels.tolist() == PLAIN["y_train"].tolist()
    named = {"labels from 1": "123", "names": "abc", "bytes": "abc"}.get(how, "012")
    assert found.class_names == tuple(named)


def test_colours_first_are_put_last(saved):
    colour = np.random.default_rng(1).integers(0, 256, (12, 6, 5, 3)).astype(np.uint8)
    found = fedmi_jax.from_file(saved(x_train=np.moveaxis(colour, -1, 1), x_test=colour))
    np.testing.assert_array_equal(found.train_images, colour)
    assert len(found.mean) == 3


def test_rounding_to_8_bits_is_said(saved):
    found = fedmi_jax.from_file(saved(**both(lambda x: x / 255 * 0.9)))
    assert found.note == "pixels are rounded to 8 bits"


@pytest.mark.parametrize(
    "names", [("train_images", "train_labels", "val_images", "val_labels"), ("X_TRAIN", "Y_TRAIN")]
)
def test_other_names(names, saved, tmp_path):
    labels = np.arange(12) % 2
    values = [PLAIN["x_train"], labels[:, None], PLAIN["x_test"], labels]
    np.savez(tmp_path / "own.npz", **dict(zip(names, values, strict=False)))
    found = fedmi_jax.from_file(tmp_path / "own.npz")
    assert len(found.test_labels) == (12 if len(names) == 4 else 2)
    assert found.note.startswith("no test set") == (len(names) == 2)


def test_a_test_set_is_drawn_where_there_is_none_and_that_is_said(saved):
    images, labels = np.arange(20 * 64).reshape(20, 8, 8) % 251, np.array([0] * 13 + [1] * 6 + [2])
    path = saved(x_train=None, y_train=None, x_test=None, y_test=None, images=images, labels=labels)
    found = fedmi_jax.from_file(path)
    assert found.note == (
        "no test set is given: 3 of 20 images, one in 6 of each class, are kept for testing, the same ones every time"
    )
    assert np.bincount(found.test_labels).tolist() == [2, 1]
    assert np.bincount(found.train_labels).tolist() == [11, 5, 1]
    rows = {image.tobytes() for image in (*found.train_images, *found.test_images)}
    assert rows == {image.tobytes() for image in images.astype(np.uint8)}
    path.touch()  # decoded anew
    assert identity.fingerprint(fedmi_jax.from_file(path)) == identity.fingerprint(found)


def test_a_class_may_be_missing_in_the_test_set_and_pixels_may_be_all_alike(saved):
    found = fedmi_jax.from_file(saved(y_test=np.zeros(12, int), **both(np.zeros_like)))
    assert (found.num_classes, found.mean, found.std) == (3, (0.0,), (1.0,))


def test_files_that_change_are_decoded_again(saved):
    path = saved()
    before = fedmi_jax.from_file(path)
    os.utime(saved(x_train=255 - PLAIN["x_train"]), ns=(1, 1))
    np.testing.assert_array_equal(fedmi_jax.from_file(path).train_images, 255 - before.train_images)


def test_images_of_other_kinds(tmp_path):
    """A grey JPEG, a palette, an opaque alpha channel and a photograph that lies on its side."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        (tmp_path / "set" / "test" / name).mkdir(parents=True)
    home, turn = tmp_path / "set" / "train", Image.Exif()
    turn[0x0112] = 6
    Image.fromarray(pixels[..., 0]).save(home / "a" / "0.jpg", quality=95)
    Image.fromarray(pixels).quantize(4).save(home / "a" / "1.png")
    Image.fromarray(pixels).convert("RGBA").save(home / "b" / "2.png")
    Image.fromarray(np.rot90(pixels)).save(home / "b" / "3.png", exif=turn)
    Image.fromarray(pixels).save(tmp_path / "set" / "test" / "a" / "x.png")
    (home / "a" / "notes.txt").write_text("no image")
    found = fedmi_jax.from_file(tmp_path / "set")
    assert found.train_images.shape == (4, 6, 9, 3)
    np.testing.assert_array_equal(found.train_images[2], pixels)
    np.testing.assert_array_equal(found.train_images[3], pixels)
    assert len(np.unique(found.train_images[1].reshape(-1, 3), axis=0)) <= 4
    assert (found.train_images[0][..., 0] == found.train_images[0][..., 2]).all()


def test_names_are_in_the_order_of_their_numbers(tmp_path):
    for name in ("10 - ten", "9 - nine", "frog", "ape"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    found = fedmi_jax.from_file(tmp_path / "set")
    assert found.class_names == ("9 - nine", "10 - ten", "ape", "frog")
    assert found.test_labels.tolist() == [0, 1, 2, 3]


def test_a_folder_of_two_tables(tmp_path):
    """As Kaggle's copies of MNIST are."""
    rows = {"mnist_train.csv": [[5, *range(16)], [0, *range(16, 32)]], "mnist_test.csv": [[1, *range(16)]]}
    for name, values in rows.items():
        lines = [["label", *(f"pixel{i}" for i in range(16))], *values]
        (tmp_path / name).write_text("\n".join(",".join(map(str, line)) for line in lines))
    found = fedmi_jax.from_file(tmp_path, name="digits")
    assert found.train_images[1, ..., 0].ravel().tolist() == list(range(16, 32))
    assert (found.name, found.train_labels.tolist(), found.num_classes) == ("digits", [5, 0], 6)


# --- refused in one line ---


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


SHAPES = "shape must be [N, H, W], [N, H, W, C] or [N, C, H, W]"
WRONG = {
    "x_train has no labels beside it; name them y_train": {"y_train": None},
    "holds no x_train and y_train (nor train_images ...); it has x_test, y_test": {"x_train": None, "y_train": None},
    "12 images, but 11 labels": {"y_train": np.arange(11)},
    "pixels must be numbers; got <U1": {"x_train": np.full((12, 8, 8), "a")},
    "63 pixels make no square; say the shape": {"x_train": np.zeros((12, 63))},
    SHAPES: {"x_train": np.zeros((12, 8, 8, 1, 1))},
    "which axis of (12, 3, 8, 3) holds the channels?": {"x_train": np.zeros((12, 3, 8, 3))},
    "images must be grey (1 channel) or RGB (3); got (12, 8, 8, 4)": {"x_train": np.zeros((12, 8, 8, 4))},
    "images of 9 x 8 x 1, but those for training are 8 x 8 x 1": {"x_test": np.zeros((12, 9, 8))},
    "some pixels are missing or not finite": {"x_train": np.full((12, 8, 8), np.nan)},
    "pixels lie in -1 .. 1; give": both(lambda x: x / 127.5 - 1),
    "pixels lie in 0 .. 65535; give whole numbers": both(lambda x: x.astype(int) * 257),
    "are not one-hot; give one class per image": {"y_train": np.ones((12, 3))},
    "labels must be whole numbers": {"y_train": np.arange(12) / 2},
    "labels begin at 3; number the classes from 0 or 1": labels(lambda y: y + 3),
    "labels begin at -1; number the classes": labels(lambda y: y - 1),
    "a label is 70000; there may be": {"y_train": np.arange(12) + 69989, "y_test": np.zeros(12, int)},
    "image 11 (from 0) has no label": {"y_train": np.array(["a"] * 11 + [" "]), "y_test": np.array(["a"] * 12)},
    "labels are names in one part and numbers in the other": {"y_train": np.array(["a"] * 12)},
    "3 classes, but 2 class names": {"class_names": np.array(["a", "b"])},
    "label 'c' is none of the class names a, b": {
        "class_names": np.array(["a", "b"]), **labels(lambda y: np.array(["a", "b", "c"])[y]),
    },
    "no class has 6 images to draw one from": {"x_test": None, "y_test": None, "y_train": np.arange(12)},
    "holds Python objects": {"x_train": np.array([None] * 12)},
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_file_is_refused_in_one_line(message, saved):
    path = saved(**WRONG[message])
    with pytest.raises(FedmiError) as caught:
        fedmi_jax.from_file(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def image(path, size=(5, 4), mode="L", **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, **how).save(path)


def table(path, *lines):
    path.write_text("\n".join(lines))


SPOILT = {
    "0.png: cannot be read as an image": lambda home: cut(home / "train" / "a" / "0.png"),
    "1.png: is 6 x 4 pixels, but": lambda home: image(home / "train" / "a" / "1.png", (6, 4)),
    "1.png: has more than 8 bits a pixel": lambda home: image(home / "train" / "a" / "1.png", mode="I;16"),
    "1.png: is partly transparent": lambda home: image(home / "train" / "a" / "1.png", mode="RGBA", color=(0, 0, 0, 9)),
    "holds test/ but no train/CLASS/": lambda home: (home / "train").rename(home.parent / "away"),
    "test: no class folder in it has an image": lambda home: (home / "test" / "a" / "0.png").unlink(),
}


@pytest.mark.parametrize("message", SPOILT)
def test_a_spoilt_folder_is_refused_in_one_line(message, tmp_path):
    for part in ("train", "test"):
        image(tmp_path / "set" / part / "a" / "0.png")
    SPOILT[message](tmp_path / "set")
    with pytest.raises(FedmiError) as caught:
        fedmi_jax.from_file(tmp_path / "set")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


TABLES = {
    "has no column label; it has kind, p0": ("kind,p0", "a,1"),
    "which column is it, label or Class?": ("label,Class,p0", "a,b,1"),
    "has no row below its header": ("label,p0",),
    "column p0 holds what is no number": ("label,p0,p1,p2,p3", "a,,1,1,1"),
    "there is no column of pixels": ("label", "a"),
    "3 columns do not fill images of 2 x 2": ("label,1x1,1x2,2x1", "a,1,2,3"),
    "column split must say train or test of every image; got all, train": ("label,split,p", "a,train,1", "a,all,1"),
    "nowhere.png: cannot be read": ("label,file", "a,nowhere.png"),
    "cannot be read as a CSV table": ("label,p0", "a,1", "b,1,2,3"),
}


@pytest.mark.parametrize("message", TABLES)
def test_a_wrong_table_is_refused_in_one_line(message, tmp_path):
    table(tmp_path / "own.csv", *TABLES[message])
    with pytest.raises(FedmiError) as caught:
        fedmi_jax.from_file(tmp_path / "own.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_idx_files_are_refused(zipped, tmp_path):
    home = write_idx(tmp_path, arrays(), "abc", zipped)
    labels_ = home / f"train-labels-idx1-ubyte{'.gz' * zipped}"
    cut(labels_)
    with pytest.raises(FedmiError, match=rf"{labels_.name}: is cut off, damaged, or no IDX file$"):
        fedmi_jax.from_file(home)
    labels_.rename(home / "letters-train-labels-idx1-ubyte")
    with pytest.raises(FedmiError, match=r"holds the files of several sets \('', 'letters-'\); give each a folder"):
        fedmi_jax.from_file(home)


def test_what_holds_no_images(tmp_path):
    with pytest.raises(FedmiError, match=r"holds no images of a known kind; give a \.npz file .*, or a folder of IDX"):
        fedmi_jax.from_file(tmp_path)
    (tmp_path / "own.npz").write_bytes(b"PK\3\4")
    with pytest.raises(FedmiError, match=r"own\.npz: is damaged, or no \.npz file"):
        fedmi_jax.from_file(tmp_path / "own.npz")
    with pytest.raises(FedmiError, match=r"absent: no such file or folder of images; .*fedmi_jax\.from_file\(PATH\)"):
        fedmi_jax.from_file(tmp_path / "absent")


# --- in a run ---


def test_an_experiment_names_the_file(saved, monkeypatch):
    path = saved()
    monkeypatch.chdir(path.parent)
    data = Data(file="own.npz")
    assert data.file == str(path)
    assert from_json(to_json(replace(experiment("quick"), data=data))).data == data
    assert datasets.load(data).name == "own"
    assert datasets.load(replace(data, name="letters")).name == "letters"


def test_the_plan_says_where_the_test_set_comes_from(saved, capsys):
    path = saved(x_test=None, y_test=None, **{k: np.repeat(PLAIN[k], 6, 0) for k in ("x_train", "y_train")})
    words = ["run", "iid", "--split.clients", "2", "--discovery.classes", "0", "--dry-run", "--data.file", str(path)]
    assert main.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("iid: own, seeds [0]")
    assert "no test set is given: 12 of 72 images" in said


def test_a_run_goes_on_where_its_images_are_gone_or_elsewhere(saved, tmp_path, capsys):
    path = saved()
    split = Split(kind="iid", clients=2)
    begun = replace(experiment("iid"), data=Data(file=str(path)), split=split)
    dataset = datasets.load(begun.data)
    there = manifest.describe(begun, dataset, fedmi_jax.Checkpoint())
    path.rename(tmp_path / "moved.npz")
    moved = replace(begun, data=Data(file=str(tmp_path / "moved.npz")))
    again = manifest.describe(moved, fedmi_jax.from_file(moved.data.file, name="own"), fedmi_jax.Checkpoint())
    assert again.run == there.run
    assert manifest.fixed(moved) == manifest.fixed(begun)
    from fedmi_jax.federation.resumable import FOLDER

    manifest.write(tmp_path / "run" / FOLDER, there)
    assert main.main(["resume", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fedmi: {path}: no such file or folder of images; ")
    assert said.count("\n") == 1
    assert json.loads((tmp_path / "run" / FOLDER / "run.json").read_text())["run"]["dataset_name"] == "own"
