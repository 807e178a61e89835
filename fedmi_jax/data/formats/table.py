"""A CSV table with a column of labels, and either a column of image files or a column for every pixel."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmi_jax.data.formats import pictures
from fedmi_jax.data.formats.raw import TEST_NAMES, TRAIN_NAMES, Part, Raw
from fedmi_jax.errors import FedmiError

if TYPE_CHECKING:
    import pandas as pd

WHAT = "a .csv file with a column label and a column file, or one column for each pixel (or a folder of two such files)"
_LABEL = ("label", "labels", "class", "target", "category", "y")
_FILE = ("file", "filename", "file_name", "image", "path", "image_path")
_SPLIT = ("split", "set", "subset", "usage")
_ENDINGS = (".csv", ".csv.gz")
_PLACE = re.compile(r"\D*(\d+)\D+(\d+)(?:\D+(\d+))?\D*")


def is_one(path: Path) -> bool:
    return _is_csv(path) if path.is_file() else path.is_dir() and "train" in _pair(path)


def read(path: Path) -> Raw:
    """Raises FedmiError naming the file and the column that is missing, doubtful or wrong."""
    if path.is_dir():
        pair = _pair(path)
        (train, files), test = _part(pair["train"], _frame(pair["train"])), None
        if "test" in pair:
            test, more = _part(pair["test"], _frame(pair["test"]))
            files += more
        return Raw(train, test, files=files)
    frame = _frame(path)
    split = _column(path, frame, _SPLIT)
    if split is None:
        train, files = _part(path, frame)
        return Raw(train, None, files=files)
    words = frame[split].str.strip().str.lower()
    test = next((name for name in TEST_NAMES if (words == name).any()), None)
    known = {*TRAIN_NAMES, *TEST_NAMES}
    if not set(words) <= known or not words.isin(TRAIN_NAMES).any() or test is None:
        raise FedmiError(f"{path}: column {split} must say train or test of every image; got {_few(set(words))}")
    parts = [_part(path, frame.loc[rows], split) for rows in (words.isin(TRAIN_NAMES), words == test)]
    return Raw(parts[0][0], parts[1][0], files=parts[0][1] + parts[1][1])


def _is_csv(path: Path) -> bool:
    return path.name.lower().endswith(_ENDINGS)


def _pair(path: Path) -> dict[str, Path]:
    """The one .csv file with "train" in its name, and the one with "test"; one of several is not taken."""
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _is_csv(file)]
    named = {word: [file for file in files if word in file.name.lower()] for word in ("train", "test")}
    return {word: found[0] for word, found in named.items() if len(found) == 1}


def _frame(path: Path) -> pd.DataFrame:
    """Labels, files and splits as text, whatever they look like; pixels as numbers."""
    import pandas as pd

    try:
        columns = [str(name) for name in pd.read_csv(path, nrows=0).columns]
        texts: Any = {name: str for name in columns if name.lower() in (*_LABEL, *_FILE, *_SPLIT)}
        frame = pd.read_csv(path, dtype=texts, na_filter=False, low_memory=False)
    except (ValueError, EOFError, pd.errors.ParserError) as error:
        said = " ".join(str(error).split())[:100]
        raise FedmiError(f"{path}: cannot be read as a CSV table ({said})") from None
    if frame.empty:
        raise FedmiError(f"{path}: has no row below its header")
    return frame


def _column(path: Path, frame: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The one column of such a name."""
    found = [str(name) for name in frame.columns if str(name).lower() in names]
    if len(found) > 1:
        raise FedmiError(f"{path}: which column is it, {' or '.join(found)}? Rename the others")
    return found[0] if found else None


def _part(path: Path, frame: pd.DataFrame, split: str | None = None) -> tuple[Part, tuple[Path, ...]]:
    """The images of these rows, and the files that they are in."""
    label, file = _column(path, frame, _LABEL), _column(path, frame, _FILE)
    if label is None:
        raise FedmiError(f"{path}: has no column label; it has {_few(map(str, frame.columns))}")
    labels = frame[label].to_numpy(dtype=str)
    if file is not None:
        files = tuple(path.parent / name for name in frame[file])
        return Part(pictures.pixels(files), labels, str(path)), files
    rest = frame.drop(columns=[name for name in (label, split) if name is not None])
    return Part(_pixels(path, rest), labels, str(path)), ()


def _pixels(path: Path, frame: pd.DataFrame) -> np.ndarray:
    """[N, H, W] or [N, H, W, C] where the columns' names say where each stands, else [N, pixels]."""
    wrong = [str(name) for name, kind in frame.dtypes.items() if kind.kind not in "iufb"]
    if wrong or not frame.shape[1]:
        what = f"column {wrong[0]} holds what is no number" if wrong else "there is no column of pixels"
        raise FedmiError(f"{path}: {what}; give a column file, or numbers in one column for each pixel")
    values, matches = frame.to_numpy(), [_PLACE.fullmatch(str(name)) for name in frame.columns]
    if not all(matches):
        return values
    places = np.array([[int(word or 0) for word in match.groups()] for match in matches if match])
    places -= places.min(0)
    shape = tuple((places.max(0) + 1).tolist())
    flat = np.dot(places, [shape[1] * shape[2], shape[2], 1])
    if sorted(flat.tolist()) != list(range(math.prod(shape))):
        raise FedmiError(f"{path}: {len(flat)} columns do not fill images of {' x '.join(map(str, shape))}")
    images = np.empty_like(values)
    images[:, flat] = values
    return images.reshape(-1, *shape)


def _few(words: object) -> str:
    some = sorted(map(str, words))  # type: ignore[call-overload]
    return ", ".join(some[:5]) + (", ..." if len(some) > 5 else "") or "nothing"
