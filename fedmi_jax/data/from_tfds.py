"""Image-classification sets of tensorflow-datasets (tfds), by name, through its public interface only.

A set prepared as array_record is read without TensorFlow, and decoded once into the cache (`cache.py`); later loads do
not import tfds. What is not prepared yet is prepared where TensorFlow is installed. The cache goes by the set's name
with its configuration and version, the tfds release that fills in what the name leaves open, and the folder of
prepared sets, and it is written anew when the prepared files change.

The order of the images is tfds' own shuffle, not the original files': a seeded run on "mnist" (embedded) and one on
tfds' copy of it, "mnist:3.*.*", differ.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedmi_jax.data import cache
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.files import user_path

CONNECT_SECONDS = 5.0
"""How long a download server may take to accept a connection; tfds itself would wait without limit."""
_ROWS = 1000
"""Images decoded at a time."""
_NAME = re.compile(r"\w+(/[\w.+-]+)?(:[\d.*]+)?")
"""No namespaces: tfds would look for them on the network."""
_LAYOUT = 1
"""Version of what is written into the cache."""


def load(name: str, data_dir: str | None) -> cache.Entry:
    """Arrays (images uint8 [N, H, W, C], labels int32 [N]; memory-mapped) and facts (with "class_names") of a set.

    Raises ConfigError for an unknown or unsuitable set, FedmiError for one that can be neither found nor prepared.
    """
    root = user_path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").absolute()
    request = {"name": name, "data_dir": str(root), "tfds": _installed(), "layout": _LAYOUT}
    place = cache.folder(request)
    if (entry := cache.read(place, _current)) is not None:
        return entry
    with _quiet():
        builder = _builder(name, root)
        _require_suitable(builder)
        if not builder.is_prepared():
            _require_preparable(builder, root)
        return cache.fetch(place, _current, lambda draft: _decode(_prepared(builder, name, root), root, draft))


def _installed() -> str:
    """The release of tfds, found without importing it."""
    try:
        return importlib.metadata.version("tensorflow-datasets")
    except importlib.metadata.PackageNotFoundError:
        raise FedmiError("tensorflow-datasets is not installed: pip install tensorflow-datasets") from None


def _tfds() -> Any:
    """tensorflow_datasets, which takes its time to import."""
    return importlib.import_module("tensorflow_datasets")


def _prints(root: Path, name: str) -> list[list[Any]]:
    """Size and time of every description of the prepared set: they change when it is prepared anew."""
    found = sorted((root / name).glob("**/dataset_info.json"))
    return [[str(p.relative_to(root)), p.stat().st_size, p.stat().st_mtime_ns] for p in found]


def _current(facts: dict[str, Any]) -> bool:
    """Whether a cached copy is that of the prepared files, or those are gone."""
    return _prints(Path(facts["data_dir"]), facts["name"]) in ([], facts["prints"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """tfds warns of what is reported here in one line, or is no news; its errors still show."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _builder(name: str, root: Path, **format: str) -> Any:
    """tfds' builder of a set. Raises ConfigError naming the set if tfds has none such."""
    tfds = _tfds()
    try:
        if not _NAME.fullmatch(name):
            raise ValueError("the name must read set, set/config, set:version or set/config:version")
        return tfds.builder(name, data_dir=str(root), **format)
    except Exception as error:
        known = tfds.list_builders(with_community_datasets=False)  # those would ask the network
        base = name.split("/")[0].split(":")[0]
        if base in known:
            raise ConfigError(f"data.name: tensorflow-datasets cannot open {name!r}: {_line(error)}") from error
        close = difflib.get_close_matches(base, ["mnist", *known], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; see https://www.tensorflow.org/datasets/catalog"
        if ":" not in name and (name.startswith((".", "/", "~")) or Path(name).suffix or Path(name).exists()):
            hint = f"; for a file or a folder of your own say --data.file {name}"
        raise ConfigError(f"data.name: no image set {name!r} in tensorflow-datasets or in {root}{hint}") from None


def _line(error: Exception) -> str:
    """The message of a (often long) error as one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _require_suitable(builder: Any) -> None:
    """Raises ConfigError if the set is not one of images of one size with one class each."""
    tfds, features = _tfds(), builder.info.features
    parts: dict[str, Any] = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image: Any = parts.get("image")
    label = parts.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
        raise ConfigError(f"data.name: {builder.name} is no image-classification set (one image, one label)")
    kind = np.dtype(image.np_dtype)
    if None in image.shape or kind != np.uint8:
        raise ConfigError(f"data.name: {builder.name} must hold uint8 images of one size; it has {kind} {image.shape}")


def _prepared(builder: Any, name: str, root: Path) -> Any:
    """The builder of a set that is prepared, preparing it first if need be."""
    if not builder.is_prepared():  # asked without a file format: tfds refuses another one than it finds
        _prepare(_builder(name, root, file_format="array_record"), root)
        builder = _builder(name, root)
    if not _is_array_record(builder) and not _has_tensorflow():
        raise FedmiError(
            f"data.name: {name} is prepared in {builder.data_dir} as {builder.info.file_format.value}, which needs "
            "TensorFlow: pip install 'fedmi-jax[tensorflow]', or set data.data_dir to a folder where it is "
            "prepared as array_record"
        )
    return builder


def _is_array_record(builder: Any) -> bool:
    """Whether the prepared files can be read without TensorFlow. (Of parquet, tfds 4.9.10 keeps only some rows.)"""
    return "array_record" in {f.value for f in builder.info.available_file_formats()}


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _prepare(builder: Any, root: Path) -> None:
    """Download the set and write it as array_record. Needs TensorFlow and, unless the files are there, the network."""
    _hide_gpus()
    downloads = root / "downloads"
    own = _tfds().download.DownloadConfig(  # sets whose files share names would overwrite each other's extracted files
        extract_dir=str(downloads / "extracted" / builder.name),
        manual_dir=str(_manual(builder, root)),
        try_download_gcs=False,
    )
    try:
        builder.download_and_prepare(download_dir=str(downloads), download_config=own, file_format="array_record")
    except Exception as error:
        if not builder.is_prepared():  # else another process was faster, which is as good
            raise FedmiError(f"data.name: tensorflow-datasets cannot prepare {builder.name}: {_line(error)}") from error


def _hide_gpus() -> None:
    """Keep TensorFlow, needed here to write files, from reserving the memory of the GPUs."""
    with contextlib.suppress(RuntimeError):  # it has started already: too late, and then not our doing
        importlib.import_module("tensorflow").config.set_visible_devices([], "GPU")


def _manual(builder: Any, root: Path) -> Path:
    """Where files the user downloaded by hand are: in a folder of the set's own, else where tfds expects them."""
    own = root / "downloads" / "manual" / builder.name
    return own if own.is_dir() else own.parent


def _require_preparable(builder: Any, root: Path) -> None:
    """Raises FedmiError, within seconds, if TensorFlow is missing or a download server cannot be reached."""
    if not _has_tensorflow():
        raise FedmiError(
            f"data.name: {builder.name} is not prepared in {root}, and preparing it needs TensorFlow: pip install "
            "'fedmi-jax[tensorflow]', or put a folder prepared elsewhere (tfds, file_format='array_record') at "
            f"{builder.data_dir}"
        )
    if (missing := _missing(builder, root)) and (reason := unreachable(missing[0])):
        raise FedmiError(
            f"data.name: {builder.name} must be downloaded, and {urllib.parse.urlsplit(missing[0]).netloc} cannot be "
            f"reached ({reason}); connect to the network, or put its files into "
            f"{root / 'downloads' / 'manual' / builder.name}, or set data.data_dir to a folder where it is prepared"
        )


def _missing(builder: Any, root: Path) -> list[str]:
    """The addresses of the set's files that were neither downloaded before nor put there by hand."""
    records = (root / "downloads" / builder.name).glob("**/*.INFO")
    here = {url for record in records for url in json.loads(record.read_text("utf-8")).get("urls", [])}
    by_hand = _manual(builder, root)
    known = (builder.url_infos or {}).items()
    return [url for url, i in known if url not in here and not (i.filename and (by_hand / i.filename).exists())]


def unreachable(url: str, seconds: float | None = None) -> str | None:
    """Why `url` cannot be had, or None if its server answers. Returns within about 2 * `seconds`, whatever happens.

    Asks as tfds will (requests, so the same proxies and certificates), in a thread that may be left behind, because
    looking up a name has no time-out of its own.
    """
    seconds = CONNECT_SECONDS if seconds is None else seconds
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_ask(url, seconds)), daemon=True)
    thread.start()
    thread.join(2 * seconds)
    return answer[0] if answer else f"no answer in {2 * seconds:g} s"


def _ask(url: str, seconds: float) -> str | None:
    import requests

    if not url.startswith("http"):
        return None
    try:
        with requests.get(url, stream=True, timeout=(seconds, seconds)) as response:
            return None if response.ok else f"HTTP status {response.status_code}"
    except requests.ReadTimeout:
        return None  # connected; a slow server is tfds' to wait for
    except requests.RequestException as error:
        return type(error).__name__


def _decode(builder: Any, root: Path, draft: Path) -> dict[str, Any]:
    """Write the set's four arrays into `draft`; returns its facts."""
    info, label = builder.info, builder.info.features["label"]
    test = next((s for s in ("test", "validation") if s in info.splits), None)
    if "train" not in info.splits or test is None:
        raise ConfigError(f"data.name: {builder.name} needs a train and a test split; it has {sorted(info.splits)}")
    for part, split in (("train", "train"), ("test", test)):
        try:
            images, labels = _arrays(builder, split, draft / f"{part}_images.npy")
        except FedmiError:
            raise
        except Exception as error:  # damaged files: tfds and array_record raise many kinds
            raise FedmiError(f"{builder.data_dir}: split {split} cannot be read: {_line(error)}") from error
        if len(labels) and not 0 <= labels.min() <= labels.max() < label.num_classes:
            raise ConfigError(f"data.name: split {split} of {builder.name} has images without a label")
        images.flush()
        np.save(draft / f"{part}_labels.npy", labels)
    config = builder.builder_config.name if builder.builder_config else None
    return {
        "name": builder.name, "config": config, "version": str(builder.version), "data_dir": str(root),
        "test_split": test, "class_names": list(label.names), "prints": _prints(root, builder.name),
    }  # fmt: skip


def _arrays(builder: Any, split: str, file: Path) -> tuple[np.memmap, np.ndarray]:
    """Images (into `file`) and labels of a split. Raises FedmiError if they are not as many as its description says."""
    count = builder.info.splits[split].num_examples
    _require_count(builder, split, _recorded(builder, split), count)
    shape = (count, *builder.info.features["image"].shape)
    images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    labels = np.full(count, -1, np.int32)
    at = 0
    for image, label in _rows(builder, split):
        if at < count:
            images[at], labels[at] = image, label
        at += 1
    _require_count(builder, split, at, count)
    return images, labels


def _require_count(builder: Any, split: str, found: int, described: int) -> None:
    if found != described:
        raise FedmiError(f"{builder.data_dir}: split {split} holds {found} images, its description says {described}")


def _recorded(builder: Any, split: str) -> int:
    """How many records the files of a split hold: tfds reads as many as the description says, and skips the rest."""
    info = builder.info.splits[split]
    if not _is_array_record(builder):
        return info.num_examples
    readers = importlib.import_module("array_record.python.array_record_module")
    return sum(readers.ArrayRecordReader(str(path)).num_records() for path in info.filepaths)


def _rows(builder: Any, split: str) -> Iterator[tuple[np.ndarray, int]]:
    """Every (image, label) of a split, in the order of its files."""
    if _is_array_record(builder):
        source = builder.as_data_source(split, file_format="array_record")
        for start in range(0, len(source), _ROWS):
            for row in source.__getitems__(range(start, min(start + _ROWS, len(source)))):
                yield row["image"], row["label"]
        return
    tfds = _tfds()
    _hide_gpus()
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    for row in tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False, read_config=in_order)):
        yield row["image"], row["label"]
