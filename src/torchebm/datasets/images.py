r"""Images: arrays of pixels, and folders of `.png`, `.jpg` and other files of one size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .data import Data, DataError
from .tables import one_line, require_rows

__all__: list[str] = []

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")

_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # Pillow's names for layouts of pixels


def read_folder(folder: Path) -> Data:
    """Every image below a folder, in sorted order; the names of subfolders are the classes. Transparency is dropped."""
    folder = folder.resolve()
    paths = sorted(_images_in(folder), key=lambda path: path.relative_to(folder).parts)
    if not paths:
        raise DataError(f"no images in the folder {folder.name}; expected files ending in {', '.join(EXTENSIONS)}.")
    require_rows(len(paths), f"the folder {folder.name}", "image")
    pixels, first = None, None
    for i, path in enumerate(paths):
        image = _read(path, str(path.relative_to(folder)))  # [c, h, w]
        if pixels is None:
            pixels, first = np.empty((len(paths), *image.shape), dtype=np.uint8), path.relative_to(folder)
        if image.shape != pixels.shape[1:]:
            raise DataError(
                f"{path.relative_to(folder)} is {_describe(image.shape)}, the first image {first} is "
                f"{_describe(pixels.shape[1:])}: all must have one size, and be all grey or all colour."
            )
        pixels[i] = image
    labels, classes = _labels(paths, folder)
    return Data(torch.from_numpy(pixels).float(), "image", folder.name, labels, bounds=(0.0, 255.0), classes=classes)


def from_array(array: np.ndarray, name: str) -> Data:
    """Images from `[n, h, w]`, `[n, c, h, w]`, or `[n, h, w, c]` where only the last axis can be one of channels."""
    require_rows(len(array), name, "image")
    if array.size == 0:
        raise DataError(f"{name} holds images without pixels: its shape is {list(array.shape)}.")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3, 4) and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)  # [n, h, w, c] -> [n, c, h, w]
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, and is refused as such
        values = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(values).all():
        position = np.argwhere(~np.isfinite(values))[0]  # image, channel, row, column
        image, channel, row, column = (int(i) + 1 for i in position)
        what = "NaN" if np.isnan(values[tuple(position)]) else "an infinite value"
        raise DataError(f"{what} in image {image} of {name}, at channel {channel}, row {row}, column {column}.")
    return Data(torch.from_numpy(values), "image", name, bounds=_bounds(array, values))


def _bounds(array: np.ndarray, values: np.ndarray) -> tuple[float, float] | None:
    """The box of the dtype where it is one of pixels, else the usual boxes of floats, else the range of the data."""
    low, high = float(values.min()), float(values.max())
    if array.dtype.kind == "b":
        return (0.0, 1.0)
    if array.dtype in (np.uint8, np.uint16):
        return (0.0, float(np.iinfo(array.dtype).max))
    if array.dtype.kind == "f" and low >= -1 and high <= 1:
        return (0.0, 1.0) if low >= 0 else (-1.0, 1.0)
    return (low, high) if low < high else None


def _images_in(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in EXTENSIONS and not hidden and path.is_file():
            yield path


def _labels(paths: list[Path], folder: Path) -> tuple[torch.Tensor | None, tuple[str, ...] | None]:
    parts = [path.relative_to(folder).parts for path in paths]
    if all(len(part) == 1 for part in parts):
        return None, None
    loose = [part[0] for part in parts if len(part) == 1]
    if loose:
        raise DataError(f"the folder {folder.name} holds images both beside its subfolders ({loose[0]}) and in them: "
                        "the class of the former is unclear; move them into a subfolder.")  # fmt: skip
    classes = tuple(sorted({part[0] for part in parts}))
    return torch.tensor([classes.index(part[0]) for part in parts]), classes


def _read(path: Path, name: str) -> np.ndarray:
    pillow, transposed = _pillow()
    try:
        with pillow.open(path) as image:
            if image.mode not in _GREY + _COLOUR:
                raise DataError(f"{name} has pixels of mode {image.mode!r}; expected 8-bit grey or colour.")
            grey = image.mode in _GREY
            pixels = np.asarray(transposed(image).convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to refuse a broken file
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is not a readable image: {one_line(error)}.") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)  # [c, h, w]


def _describe(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} x {height} {'grey' if channels == 1 else 'colour'}"


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "torchebm[data]"') from error
    return Image, ImageOps.exif_transpose
