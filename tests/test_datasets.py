"""Where images come from: embedded MNIST, tensorflow-datasets through the cache, arrays from Python."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from fedmi_jax.config import Data
from fedmi_jax.data import cache, datasets, from_tfds, identity, mnist
from fedmi_jax.errors import ConfigError, FedmiError

ASK = from_tfds._ask
TRAIN, TEST = 23, 7
NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


# --- embedded MNIST ---


def test_mnist_is_the_real_one():
    data = datasets.load(Data())
    assert data.train_images.shape == (60_000, 28, 28, 1)
    assert data.test_images.shape == (10_000, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int32
    assert np.bincount(data.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels = hashlib.sha256(data.train_images.tobytes()).hexdigest()  # of the original file without its header
    assert pixels == "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"
    assert (data.num_classes, data.image_shape, data.mean, data.std) == (10, (28, 28, 1), (0.1307,), (0.3081,))
    assert data.class_names[::9] == ("0 - zero", "9 - nine")
    assert not data.train_images.flags.writeable


def test_damaged_mnist_is_refused(tmp_path):
    copy = tmp_path / "mnist.npz"
    content = bytearray((mnist.files("fedmi_jax.data") / "mnist.npz").read_bytes())
    content[5_000_000] ^= 1
    copy.write_bytes(content)
    with pytest.raises(FedmiError, match=r"mnist\.npz: SHA-256 is \w{64}, should be"):
        mnist.read(copy)
    with pytest.raises(FedmiError, match=r"absent\.npz: cannot be read"):
        mnist.read(tmp_path / "absent.npz")


def test_mnist_needs_neither_tfds_nor_jax():
    code = (
        "import sys; from fedmi_jax.config import Data; from fedmi_jax.data import datasets, partition\n"
        "datasets.load(Data())\n"
        "print([m for m in ('tensorflow_datasets', 'tensorflow', 'matplotlib', 'filelock') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- arrays from Python ---


def arrays(**changes):
    rng = np.random.default_rng(0)
    given = {
        "train_images": rng.integers(0, 256, (6, 8, 8), np.uint8), "train_labels": np.arange(6) % 3,
        "test_images": rng.integers(0, 256, (4, 8, 8), np.uint8), "test_labels": [0, 1, 2, 2],
    }  # fmt: skip
    return given | changes


def test_arrays_are_taken_as_they_are():
    data = datasets.from_arrays(**arrays(), name="mine")
    assert data.train_images.shape == (6, 8, 8, 1)
    assert data.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test_labels.dtype == np.int32
    assert (data.name, data.class_names, data.mean, data.std) == ("mine", ("0", "1", "2"), (0.5,), (0.5,))
    colour = np.zeros((4, 8, 8, 3), np.uint8)
    data = datasets.from_arrays(colour, [0, 1, 2, 0], colour, [0] * 4, class_names="abcd", mean=[0.1, 0.2, 0.3])
    assert (data.num_classes, data.image_shape, data.mean, data.std) == (4, (8, 8, 3), (0.1, 0.2, 0.3), (0.5,) * 3)


@pytest.mark.parametrize(
    "names",
    [
        (0, 7, 9), np.array([0, 7, 9]), xr.DataArray([0, 7, 9]), range(0, 12, 4), ["a", "b", "a"],
        {"x": 1, "y": 1, "z": 1}, {1: "b", 2: "c", 0: "a"},
        np.array(["a", "b", "c"]), [b"a", b"b", b"c"], (name for name in "xyz"),
    ],
    ids=lambda names: type(names).__name__,
)  # fmt: skip
def test_class_names_may_be_of_any_kind(names):
    found = datasets.from_arrays(**arrays(), class_names=names, name=3)
    assert found.name == "3"
    assert "".join(found.class_names) in ("079", "048", "aba", "xyz", "abc")
    assert identity.describe(found).class_names == found.class_names


def test_names_hold_nothing_that_no_file_can():
    names = ["\x00a", "\ud800", "b\n"]
    found = datasets.from_arrays(**arrays(), class_names=names, name="\ud8ff")
    assert (found.name, found.class_names) == (r"\ud8ff", (r"\x00a", r"\ud800", r"b\n"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": np.zeros((6, 64), np.uint8)}, r"train_images: shape must be \[N, H, W\] or .*got \(6, 64\)"),
        ({"test_images": np.zeros((4, 8, 8, 1, 1), np.uint8)}, r"test_images: shape must be"),
        ({"train_images": np.zeros((0, 8, 8), np.uint8)}, r"train_images: .*none of them 0"),
        ({"train_images": np.zeros((6, 8, 8))}, r"train_images: dtype must be uint8.*got float64"),
        ({"test_images": np.zeros((4, 8, 8), np.int8)}, r"test_images: dtype must be uint8.*got int8"),
        ({"train_images": [[[1], [2, 3]]]}, r"train_images: must be an array"),
        (
            {"test_images": np.zeros((4, 9, 8), np.uint8)},
            r"test_images: shape must be \[N', 8, 8, 1\]",
        ),
        ({"train_labels": np.zeros(5, int)}, r"train_labels: shape must be \(6,\), one label per image; got \(5,\)"),
        ({"test_labels": np.zeros((4, 3), int)}, r"test_labels: shape must be \(4,\)"),
        ({"test_labels": np.zeros(4)}, r"test_labels: labels must be whole numbers; got dtype float64"),
        ({"train_labels": np.zeros(6, bool)}, r"train_labels: labels must be whole numbers"),
        ({"train_labels": np.arange(6) - 1}, r"train_labels: labels must lie in 0 .. \d+.*; got -1 .. 4"),
        ({"class_names": ("a", "b")}, r"train_labels: labels must lie in 0 .. 1; got 0 .. 2"),
        (
            {"train_labels": [0, 1, 2, 0, 1, 2**31 - 1]},
            r"train_labels: labels must lie in 0 .. 65535, for the largest says",
        ),
        ({"test_labels": [0, 1, 2, 200_000]}, r"test_labels: labels must lie in 0 .. 65535, .*; got 0 .. 200000$"),
        ({"train_labels": np.full(6, 2**64 - 1, np.uint64)}, r"train_labels: labels must lie in 0 .. 65535"),
        ({"class_names": []}, r"class_names: give 1 to 65536 names, one for each class; got '\[\]'"),
        ({"class_names": [["a", "b"], ["c", "d"]]}, r"class_names: give 1 to"),
        ({"class_names": [["a", "b"], ["c"]]}, r"class_names: give 1 to"),
        ({"class_names": {"a", "b", "c"}}, r"class_names: give 1 to 65536 names, one for each class; got"),
        ({"class_names": 3}, r"class_names: give 1 to 65536 names, one for each class; got '3'"),
        ({"class_names": range(65_537)}, r"class_names: give 1 to"),
        ({"mean": "half"}, r"mean: must be 1 numbers, one per channel; got half"),
        ({"std": [[0.5], [0.5, 1]]}, r"std: must be 1 positive numbers"),
        ({"mean": (0.1, 0.2)}, r"mean: must be 1 numbers, one per channel"),
        ({"std": (0.0,)}, r"std: must be 1 positive numbers"),
        ({"mean": (float("nan"),)}, r"mean: must be 1 numbers"),
    ],
)
def test_wrong_arrays_are_refused(changes, message):
    with pytest.raises(FedmiError, match=f"^{message}"):
        datasets.from_arrays(**arrays(**changes))


# --- tensorflow-datasets ---


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A cache of its own, no TensorFlow, and an error for whatever asks the network."""
    monkeypatch.setenv("FEDMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(from_tfds, "_has_tensorflow", lambda: False)
    monkeypatch.setattr(from_tfds, "_ask", lambda url, seconds: pytest.fail(f"asked for {url}"))
    return tmp_path / "sets"


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return io.BytesIO(stream.getvalue())


def prepare(root, seed=0, label=None):
    """A small Fashion-MNIST prepared as array_record in `root`, by tfds' own writer, and its images."""
    tfds = from_tfds._tfds()
    builder = tfds.builder("fashion_mnist", data_dir=str(root), file_format="array_record")
    builder.data_path.mkdir(parents=True, exist_ok=True)
    writer = tfds.core.SequentialWriter(builder.info, max_examples_per_shard=10, file_format="array_record")
    pixels = np.random.default_rng(seed).integers(0, 256, (TRAIN + TEST, 28, 28), np.uint8)
    labels = [index % 10 if label is None else label for index in range(len(pixels))]
    examples = [{"image": png(image), "label": own} for image, own in zip(pixels, labels, strict=True)]
    writer.initialize_splits(["train", "test"], fail_if_exists=False)
    writer.add_examples({"train": examples[:TRAIN], "test": examples[TRAIN:]})
    writer.close_all()
    return pixels[..., None]


def describe(root, **changes):
    """Change the description of the prepared set."""
    file = root / "fashion_mnist" / "3.0.1" / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def fashion(root):
    return datasets.load(Data(name="fashion_mnist", data_dir=str(root)))


def test_prepared_set_is_read_without_tensorflow_and_decoded_once(offline, monkeypatch):
    pixels = prepare(offline)
    first = fashion(offline)
    np.testing.assert_array_equal(first.train_images, pixels[:TRAIN])
    np.testing.assert_array_equal(first.test_images, pixels[TRAIN:])
    assert first.train_labels.tolist() == [index % 10 for index in range(TRAIN)]
    assert (first.name, first.class_names, first.mean) == ("fashion_mnist", NAMES, (0.5,))
    assert "tensorflow" not in sys.modules
    monkeypatch.setattr(from_tfds, "_tfds", lambda: pytest.fail("tfds was imported again"))
    again = fashion(offline)
    assert isinstance(again.train_images, np.memmap)
    np.testing.assert_array_equal(again.train_images, pixels[:TRAIN])
    with pytest.raises(ValueError, match="read-only"):
        again.train_images[0] = 0


def test_cache_follows_the_prepared_files(offline, tmp_path):
    prepare(offline)
    fashion(offline)
    other = prepare(tmp_path / "elsewhere", seed=1)
    np.testing.assert_array_equal(fashion(tmp_path / "elsewhere").test_images, other[TRAIN:])
    new = prepare(offline, seed=2)
    np.testing.assert_array_equal(fashion(offline).test_images, new[TRAIN:])
    (offline / "fashion_mnist").rename(offline / "gone")
    np.testing.assert_array_equal(fashion(offline).test_images, new[TRAIN:])


def test_damaged_cache_is_written_again(offline):
    pixels = prepare(offline)
    fashion(offline)
    (file,) = (offline.parent / "cache" / "datasets").glob("fashion_mnist-*/train_images.npy")
    with open(file, "r+b") as stream:
        stream.truncate(1000)
    np.testing.assert_array_equal(fashion(offline).train_images, pixels[:TRAIN])


@pytest.mark.parametrize("lengths", [["10", "10", "2"], ["10", "10", "9"]])
def test_number_of_images_must_be_as_described(offline, lengths):
    prepare(offline)
    info = json.loads((offline / "fashion_mnist" / "3.0.1" / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = lengths
    describe(offline, splits=info["splits"])
    with pytest.raises(FedmiError, match=r"3\.0\.1: split train holds 23 images, its description says 2[29]"):
        fashion(offline)


def test_every_image_needs_a_label_and_both_splits_must_be_there(offline):
    prepare(offline, label=-1)  # as tfds marks images without one
    with pytest.raises(ConfigError, match="split train of fashion_mnist has images without a label"):
        fashion(offline)
    info = json.loads((offline / "fashion_mnist" / "3.0.1" / "dataset_info.json").read_text())
    describe(offline, splits=info["splits"][:1])
    with pytest.raises(ConfigError, match=r"needs a train and a test split; it has \['train'\]"):
        fashion(offline)


def test_other_formats_need_tensorflow(offline):
    prepare(offline)
    describe(offline, fileFormat="tfrecord")
    with pytest.raises(FedmiError, match=r"prepared in .* as tfrecord, which needs TensorFlow: pip install 'fedmi-jax"):
        fashion(offline)


def test_set_not_prepared_says_what_to_do_and_writes_nothing(offline, tmp_path):
    with pytest.raises(FedmiError) as error:
        fashion(offline)
    assert "pip install 'fedmi-jax[tensorflow]'" in str(error.value)
    assert str(offline / "fashion_mnist" / "3.0.1") in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion-mnist", r"data\.name: no image set 'fashion-mnist' .* did you mean 'fashion_mnist'\?"),
        ("no_such_set", r"data\.name: no image set 'no_such_set' in tensorflow-datasets or in "),
        ("", r"data\.name: no image set '' "),
        ("hub:mnist", r"data\.name: no image set 'hub:mnist' "),
        ("mnist/no_such_config", r"data\.name: tensorflow-datasets cannot open 'mnist/no_such_config'"),
        ("fashion_mnist/version=3.0.1", r"data\.name: tensorflow-datasets cannot open .*: the name must read set, "),
        ("imagenette", r"data\.name: imagenette must hold uint8 images of one size; it has uint8 \(None, None, 3\)"),
        ("imdb_reviews", r"data\.name: imdb_reviews is no image-classification set"),
    ],
)
def test_unknown_or_unsuitable_set(offline, tmp_path, name, message):
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        datasets.load(Data(name=name, data_dir=str(offline)))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


# --- the network ---


def test_offline_is_said_within_seconds(offline, monkeypatch, tmp_path):
    monkeypatch.setattr(from_tfds, "_ask", ASK)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(from_tfds, "_has_tensorflow", lambda: True)
    monkeypatch.setattr(from_tfds, "_missing", lambda builder, root: ["http://127.0.0.1:9/images.gz"])
    start = time.monotonic()
    with pytest.raises(FedmiError, match=r"must be downloaded, and 127\.0\.0\.1:9 cannot be reached \(Connection") as e:
        fashion(offline)
    assert time.monotonic() - start < 5
    assert f"put its files into {offline / 'downloads' / 'manual' / 'fashion_mnist'}" in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_name_look_up_without_end_is_bounded(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(from_tfds, "_ask", lambda url, seconds: released.wait(30))
    start = time.monotonic()
    assert from_tfds.unreachable("http://nowhere.invalid/", seconds=0.1) == "no answer in 0.2 s"
    assert time.monotonic() - start < 2
    released.set()


def test_files_put_there_by_hand_need_no_network(tmp_path):
    infos = {f"http://host.invalid/{n}": SimpleNamespace(filename=n) for n in ("a.gz", "b.gz")}
    builder = SimpleNamespace(name="toy", url_infos=infos)
    assert from_tfds._missing(builder, tmp_path) == list(infos)
    manual = tmp_path / "downloads" / "manual" / "toy"
    manual.mkdir(parents=True)
    (manual / "a.gz").touch()
    assert from_tfds._missing(builder, tmp_path) == ["http://host.invalid/b.gz"]
    (tmp_path / "downloads" / "toy").mkdir()
    (tmp_path / "downloads" / "toy" / "b.gz.INFO").write_text('{"urls": ["http://host.invalid/b.gz"]}')
    assert from_tfds._missing(builder, tmp_path) == []


@pytest.mark.parametrize("prepared", [True, False])
def test_losing_the_race_to_prepare_is_no_error(tmp_path, monkeypatch, prepared):
    monkeypatch.setattr(from_tfds, "_hide_gpus", lambda: None)
    seen = {}

    def download_and_prepare(download_config, **_):
        seen["extract"] = str(download_config.extract_dir)
        raise OSError("rename: directory\nnot empty")

    builder = SimpleNamespace(name="toy", is_prepared=lambda: prepared, download_and_prepare=download_and_prepare)
    if prepared:
        from_tfds._prepare(builder, tmp_path)
    else:
        with pytest.raises(FedmiError, match="cannot prepare toy: rename: directory not empty"):
            from_tfds._prepare(builder, tmp_path)
    assert seen["extract"] == str(tmp_path / "downloads" / "extracted" / "toy")  # of its own


# --- the cache ---


def fill(draft):
    for name in cache.ARRAYS:
        np.save(draft / f"{name}.npy", np.arange(3))
    return {"name": "toy"}


def test_two_at_once_write_once(tmp_path):
    written = []

    def write(draft):
        written.append(draft)
        time.sleep(0.2)
        return fill(draft)

    place = tmp_path / "datasets" / "toy"
    threads = [threading.Thread(target=cache.fetch, args=(place, lambda facts: True, write)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert sorted(p.name for p in place.parent.iterdir() if not p.name.endswith(".lock")) == ["toy"]


def test_failed_write_leaves_nothing(tmp_path):
    def write(draft):
        fill(draft)
        raise FedmiError("no")

    place = tmp_path / "datasets" / "toy"
    with pytest.raises(FedmiError, match="no"):
        cache.fetch(place, lambda facts: True, write)
    assert not [p for p in place.parent.iterdir() if not p.name.endswith(".lock")]


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FedmiError, match=r"the cache cannot be written .* set FEDMI_CACHE"):
        cache.fetch(tmp_path / "file" / "datasets" / "toy", lambda facts: True, fill)
