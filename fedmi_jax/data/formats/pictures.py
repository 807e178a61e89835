"""Image files (PNG, JPEG and others), read with Pillow as one array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmi_jax.errors import FedmiError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
_GREY, _DEEP = ("1", "L", "LA", "La"), ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def pixels(files: Sequence[Path]) -> np.ndarray:
    """uint8 [N, H, W, C] of at least one file; C is 1 where all images are grey, else 3.

    A photograph is turned as its EXIF data say. Raises FedmiError naming the first file that is no image, has more than
    8 bits, is partly transparent, or has another size than the first.
    """
    looks = [_opened(file, _look) for file in files]
    for file, look in zip(files, looks, strict=True):
        if look[:2] != looks[0][:2]:
            (height, width, _), (h, w, _) = look, looks[0]
            raise FedmiError(f"{file}: is {width} x {height} pixels, but {files[0]} is {w} x {h}; make all one size")
    found = np.empty((len(files), *looks[0][:2], max(channels for _, _, channels in looks)), np.uint8)
    for place, file in zip(found, files, strict=True):
        place[...] = _opened(file, _decoded)
    return found


def _opened(file: Path, use: Any) -> Any:
    from PIL import Image

    try:
        with Image.open(file) as image:
            return use(file, image)
    except FedmiError:
        raise
    except PermissionError:
        raise
    except Exception as error:  # on damaged files Pillow and its decoders raise nearly anything
        said = " ".join(str(error).split()).replace(str(file), "it")[:100]
        raise FedmiError(f"{file}: cannot be read as an image ({said})") from None


def _look(file: Path, image: Any) -> tuple[int, int, int]:
    """Height, width and channels, without decoding."""
    if image.mode in _DEEP:
        raise FedmiError(f"{file}: has more than 8 bits a pixel; save it with 8")
    turned = image.getexif().get(0x0112, 1) >= 5  # a quarter turn
    width, height = image.size[::-1] if turned else image.size
    return height, width, 1 if image.mode in _GREY else 3


def _decoded(file: Path, image: Any) -> np.ndarray:
    """[H, W, C]."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode not in ("LA", "La") else "LA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise FedmiError(f"{file}: is partly transparent; save it without transparency")
    values = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    return values if values.ndim == 3 else values[..., None]
