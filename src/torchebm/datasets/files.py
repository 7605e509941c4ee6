r"""One door to every data set: a built-in name, a file, or a folder of images."""

import difflib
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import images, tables
from .data import Data, DataError
from .densities import DENSITIES, density
from .digits import digits

__all__ = ["load"]

N_DRAWS = 10_000

_EXTENSIONS = (".npy", ".npz", ".csv", ".parquet")


def load(source: str | os.PathLike[str], generator: torch.Generator | None = None) -> Data:
    """Loads a data set in its own units, and refuses in one line what cannot be learned from.

    | source | read as |
    |---|---|
    | `"digits"`, or the name of a density | the bundled images; 10,000 draws with columns x1, x2 |
    | `.npy` | `[n, d]` a table; `[n, h, w]`, `[n, c, h, w]`, `[n, h, w, c]` images |
    | `.npz` | the array `x`, `x_train` or `data`, or the only one; labels from `y` or `y_train` |
    | `.csv`, `.parquet` | a table, every column numeric |
    | a folder | its images, of one size; the names of subfolders are the classes |

    Args:
        source: A path, or a built-in name; `"./digits"` is the folder of that name.
        generator: The stream that the draws from a density come from.
    Returns:
        The observations in float32, with what is known about them.
    Raises:
        DataError: If there is nothing there, or what is there is not a complete set of at least two numeric rows or
            images. Rows are counted from 1 without the header, columns from 1.
        ImportError: If the format needs a package that is not installed.

    Example:
        >>> load("rings", torch.Generator().manual_seed(0))
        Data(rings: 10000 rows of a table, event_shape=(2,))
    """
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a path or the name of a data set; got {type(source).__name__}.")
    if source == "digits":
        return digits()
    if source in DENSITIES:
        x = density(source).sample(N_DRAWS, generator, dtype=torch.float32).cpu()
        return Data(x, "table", source, columns=tables.numbered(x.shape[1]))
    path = Path(source).expanduser()
    try:
        if not path.exists():
            raise DataError(_missing(source, path))
        return images.read_folder(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or tables.one_line(error)}.") from error


def _read_file(path: Path) -> Data:
    extension = path.suffix.lower()
    if extension == ".npy":
        return _from_array(_read_npy(path), path.name)
    if extension == ".npz":
        return _read_npz(path)
    if extension == ".csv":
        return tables.read_csv(path)
    if extension == ".parquet":
        return tables.read_parquet(path)
    if extension in images.EXTENSIONS:
        raise DataError(f"{path.name} is a single image: give the folder that holds the images.")
    raise DataError(f"{path.name} has {f'the unknown extension {extension!r}' if extension else 'no extension'}; "
                    f"expected {', '.join(_EXTENSIONS)} or a folder of images.")  # fmt: skip


def _read_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(_unreadable(path.name, error)) from error
    if not isinstance(array, np.ndarray):  # a renamed .npz
        raise DataError(f"{path.name} is an archive of several arrays: rename it to .npz.")
    return array


def _read_npz(path: Path) -> Data:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            name, label_name = _choose(archive.files, path.name)
            array, labels = archive[name], None if label_name is None else archive[label_name]
    except DataError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:  # no .npz, or objects in it
        raise DataError(_unreadable(path.name, error)) from error
    where = f"{name} in {path.name}"
    data = _from_array(array, where)
    if labels is None:
        return Data(data.x, data.kind, path.name, None, data.columns, data.bounds)
    encoded, classes = _encode(labels, len(data), f"{label_name} in {path.name}")
    return Data(data.x, data.kind, path.name, encoded, data.columns, data.bounds, classes)


def _choose(found: list[str], file: str) -> tuple[str, str | None]:
    """The names of the observations and of their labels among the arrays of an archive."""
    by_name = {name.lower(): name for name in found}
    candidates = [name for name in found if name.lower() not in ("y", "y_train")]
    observed = next((name for name in ("x", "x_train", "data") if name in by_name), None)
    if observed is None and len(candidates) == 1:
        observed = candidates[0].lower()
    if observed is None:
        listing = f"has the arrays {', '.join(found)}" if found else "holds no arrays"
        raise DataError(f"{file} {listing}; expected one named x, x_train or data, or a single one.")
    label = "y_train" if observed == "x_train" else "y"
    fallback = "y" if label == "y_train" else "y_train"
    return by_name[observed], by_name.get(label, by_name.get(fallback))


def _from_array(array: np.ndarray, name: str) -> Data:
    if array.dtype.kind not in "iufb":
        kinds = {"U": "text", "S": "text", "M": "dates", "m": "durations", "c": "complex numbers", "V": "records"}
        raise DataError(f"{name} holds {kinds.get(array.dtype.kind, array.dtype)}; expected an array of real numbers.")
    if array.ndim in (1, 2):
        return tables.from_array(array, name)
    if array.ndim in (3, 4):
        return images.from_array(array, name)
    raise DataError(
        f"{name} has shape {list(array.shape)}; expected [n, d], a table, or [n, h, w] or [n, c, h, w], images."
    )


def _encode(labels: np.ndarray, n: int, name: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels as integers `[n]`; those given as text are numbered in sorted order and their names returned."""
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(f"{name} has shape {list(labels.shape)}; expected [{n}], one label per row.")
    labels = labels.reshape(n)
    if labels.dtype.kind in "US":
        values, index = np.unique(labels.astype(str), return_inverse=True)
        return torch.from_numpy(index.astype(np.int64)), tuple(values.tolist())
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iub":
        raise DataError(f"{name} holds {labels.dtype} values that are no classes; expected integers or text.")
    return torch.from_numpy(labels.astype(np.int64)), None


def _unreadable(name: str, error: Exception) -> str:
    if "Object arrays" in str(error):
        return f"{name} holds Python objects, not numbers; save an array of a numeric dtype."
    if "pickle" in str(error):  # what numpy suspects of any file it does not know
        return f"{name} is not a NumPy file."
    return f"{name} is damaged or not what its extension says: {tables.one_line(error)}."


def _missing(source: str | os.PathLike[str], path: Path) -> str:
    """What to say about a source that is neither a file nor a name: where it was looked for, and what comes close."""
    bare = isinstance(source, str) and len(path.parts) <= 1 and not path.suffix
    if not path.parent.is_dir():
        return f"no such file: {path}; the folder {path.parent} does not exist."
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    if bare:
        near = difflib.get_close_matches(path.name, ["digits", *DENSITIES], n=1) + near
        known = f"built-in names are digits, {', '.join(DENSITIES)}"
        return f"no file and no built-in data set is named {str(path)!r}; " + (_did_you_mean(near) or f"{known}.")
    return f"no such file: {path}" + (f"; {_did_you_mean(near)}" if near else ".")


def _did_you_mean(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else ""
