r"""Tables: `.csv` and `.parquet` files, read as columns of numbers or refused with the row and column of the fault."""

import csv
import math
from collections.abc import Iterator, Sequence
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .data import Data, DataError

if TYPE_CHECKING:
    import pandas

__all__: list[str] = []


def read_csv(path: Path) -> Data:
    """A comma-, semicolon- or tab-separated table; a first row that is all numbers is data, any other is the header."""
    first = next(_csv_rows(path), None)
    if first is None:
        raise DataError(f"{path.name} is empty; expected a table of numbers.")
    has_header = not all(_is_number(field) for field in first)
    if has_header:
        first[0] = first[0].removeprefix("#")  # numpy.savetxt writes headers as comments
    columns = _names(first) if has_header else numbered(len(first))
    if "" in columns:
        raise DataError(f"column {columns.index('') + 1} of {path.name} has no name, like a row index of pandas: "
                        "write the file with index=False, or name the column.")  # fmt: skip
    arrays = _by_pandas(path, len(columns), has_header) or _field_by_field(path, columns, has_header)
    return _data(arrays, columns, path.name)


def read_parquet(path: Path) -> Data:
    """A table whose columns are all numbers or booleans."""
    pandas = _pandas(".parquet")
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise ImportError('reading .parquet files needs pyarrow: pip install "torchebm[data]"') from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path.name} is not a readable .parquet file: {one_line(error)}.") from error
    columns = _names(frame.columns)
    arrays = [_numbers(frame.iloc[:, i], i, name, path.name) for i, name in enumerate(columns)]
    return _data(arrays, columns, path.name)


def from_array(array: np.ndarray, name: str) -> Data:
    """A table from an array `[n, d]`, or from `[n]` as a single column."""
    array = array[:, None] if array.ndim == 1 else array
    return _data([array[:, i] for i in range(array.shape[1])], numbered(array.shape[1]), name)


def numbered(d: int) -> tuple[str, ...]:
    """Names for `d` columns that have none."""
    return tuple(f"x{i + 1}" for i in range(d))


def one_line(error: Exception) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def require_rows(n: int, name: str, noun: str = "row") -> None:
    """Refuses what is too small to learn from."""
    if n < 2:
        raise DataError(f"{name} has {'no' if n == 0 else 'only one'} {noun}; at least 2 are needed to learn from.")


def _data(arrays: Sequence[np.ndarray], columns: tuple[str, ...], name: str) -> Data:
    if not arrays:
        raise DataError(f"{name} has no columns; expected a table of numbers.")
    require_rows(len(arrays[0]), name, "row of data")
    x = torch.empty(len(arrays[0]), len(arrays))
    for i, array in enumerate(arrays):
        x[:, i] = _column(array, f"column {i + 1} ({columns[i]!r})", name)
    return Data(x, "table", name, columns=columns)


def _column(array: np.ndarray, where: str, name: str) -> Float[Tensor, " n"]:
    values = np.asarray(array, dtype=np.float64)
    for bad, what, fix in (
        (np.isnan(values), "NaN", "drop or fill missing values first"),
        (np.isinf(values), "an infinite value", "drop or cap it first"),
        (np.abs(values) > np.finfo(np.float32).max, "a value too large for float32", "rescale the column first"),
    ):
        if bad.any():
            raise DataError(f"{what} in {where}, row {int(bad.argmax()) + 1} of {name}: {fix}.")
    return torch.from_numpy(values.astype(np.float32))


def _names(labels: Sequence[object]) -> tuple[str, ...]:
    return tuple(" ".join(str(label).split()) for label in labels)  # messages are one line


# --- .csv: pandas reads; only when it stumbles is the file read again, field by field, to name the fault -------------

_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "<na>"))
_TRUTH = {"true": "1", "false": "0"}


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
    return max(",;\t", key=lambda separator: len(next(csv.reader([first], delimiter=separator))))


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows that are not blank, header included."""
    try:
        separator = _separator(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (
                row for row in csv.reader(file, delimiter=separator, skipinitialspace=True) if not _is_blank(row)
            )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is not a .csv file in UTF-8: {one_line(error)}.") from error


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _by_pandas(path: Path, d: int, has_header: bool) -> list[np.ndarray] | None:
    """The columns of a table without a fault; none of a table with one."""
    pandas, separator = _pandas(".csv"), _separator(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if has_header:  # passed over here, because pandas' skiprows miscounts line breaks within quotes
            next(row for row in csv.reader(file, delimiter=separator, skipinitialspace=True) if not _is_blank(row))
        try:
            frame = pandas.read_csv(file, sep=separator, header=None, skipinitialspace=True, low_memory=False)
        except ValueError:  # its parser errors, ragged rows among them
            return None
    if frame.shape[1] != d or any(dtype.kind not in "iufb" for dtype in frame.dtypes) or frame.isna().to_numpy().any():
        return None
    return [frame[i].to_numpy() for i in frame]


def _field_by_field(path: Path, columns: tuple[str, ...], has_header: bool) -> list[np.ndarray]:
    """The columns of a table that pandas did not read as numbers, or the fault in the first bad field."""
    rows = _csv_rows(path)
    if has_header:
        next(rows)
    values = []
    for count, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            fields = "1 field" if len(row) == 1 else f"{len(row)} fields"
            raise DataError(f"row {count} of {path.name} has {fields}, the first line {len(columns)}: "
                            "every row needs the same number.")  # fmt: skip
        for i, field in enumerate(row):
            if field.strip().lower() in _MISSING:
                fault = "the field is empty" if not field.strip() else f"the field is {field.strip()!r}"
                raise DataError(f"NaN in column {i + 1} ({columns[i]!r}), row {count} of {path.name} ({fault}): "
                                "drop or fill missing values first.")  # fmt: skip
            if not _is_number(field):
                raise DataError(_text_in(i, columns[i], count, path.name, field))
        values.append([_TRUTH.get(field.strip().lower(), field) for field in row])
    require_rows(len(values), path.name, "row of data")
    return list(np.array(values, dtype=np.float64).T)


def _text_in(i: int, column: str, row: int, name: str, text: str) -> str:
    text = text if len(text) <= 40 else text[:37] + "..."
    return (f"text {text!r} in column {i + 1} ({column!r}), row {row} of {name}: every column must be numeric; "
            "drop the column or encode it as numbers.")  # fmt: skip


def _is_number(field: str) -> bool:
    try:
        float(_TRUTH.get(field.strip().lower(), field))
    except ValueError:
        return False
    return "_" not in field  # Python reads 1_000 as a number, no other program does


# --- .parquet: columns are typed, so the type decides ----------------------------------------------------------------


def _numbers(column: "pandas.Series", i: int, label: str, name: str) -> np.ndarray:
    kind = getattr(column.dtype, "kind", "O")
    if kind in "iufb":
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=math.nan))
    where = f"column {i + 1} ({label!r}) of {name}"
    if kind in "mM":
        what = "dates" if kind == "M" else "durations"
        raise DataError(f"{where} holds {what}, not numbers: drop the column or turn it into a number of days.")
    if kind == "c":
        raise DataError(f"{where} holds complex numbers: store real and imaginary parts as two columns.")
    missing = column.isna().to_numpy()
    for row, value in enumerate(column, start=1):  # text, categories, decimals, nested values
        if isinstance(value, str):
            raise DataError(_text_in(i, label, row, name, value))
        if not missing[row - 1] and not isinstance(value, Number):
            raise DataError(f"{where} holds values of type {type(value).__name__}: every column must be numeric; "
                            "drop the column or encode it as numbers.")  # fmt: skip
    return np.array([math.nan if absent else float(value) for value, absent in zip(column, missing, strict=True)])


def _pandas(extension: str) -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f'reading {extension} files needs pandas: pip install "torchebm[data]"') from error
    return pandas
