r"""What every loader returns, the error it raises, and the split into training and held-out rows."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchebm.core.random import randperm

__all__ = ["Data", "DataError", "split"]


class DataError(ValueError):
    """Data that cannot be learned from; the message is one line that says where the fault lies and how to mend it."""


@dataclass(frozen=True, eq=False)
class Data:
    """A set of observations in the user's own units, as loaded.

    Args:
        x: The observations, `[n, *event]`: `[n, d]` for a table, `[n, c, h, w]` for images.
        kind: `"table"` or `"image"`.
        name: Where they come from, for messages and titles.
        labels: The class of each observation, `[n]`, if the source has any.
        columns: Names of the columns of a table.
        bounds: The lowest and highest value a pixel can take, for images.
        classes: The name of each label, where labels came as text: `classes[labels[i]]`.

    Example:
        >>> data = Data(torch.zeros(3, 2), kind="table", name="origin", columns=("a", "b"))
        >>> len(data), data.event_shape
        (3, (2,))
        >>> data
        Data(origin: 3 rows of a table, event_shape=(2,))
    """

    x: Float[Tensor, " n *event"]
    kind: Literal["table", "image"]
    name: str
    labels: Int[Tensor, " n"] | None = None
    columns: tuple[str, ...] | None = None
    bounds: tuple[float, float] | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("table", "image"):
            raise ValueError(f"kind must be 'table' or 'image'; got {self.kind!r}.")
        expected = 2 if self.kind == "table" else 4
        if self.x.ndim != expected:
            shape = "[n, d]" if self.kind == "table" else "[n, c, h, w]"
            raise ValueError(f"x of a data set of kind {self.kind!r} must be {shape}; got shape {list(self.x.shape)}.")
        if self.labels is not None and self.labels.shape != self.x.shape[:1]:
            raise ValueError(f"labels must be [{len(self.x)}], one per row; got shape {list(self.labels.shape)}.")
        if self.columns is not None and len(self.columns) != self.x.shape[1]:
            raise ValueError(f"columns must name all {self.x.shape[1]} columns of x; got {len(self.columns)} names.")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        rows = "rows of a table" if self.kind == "table" else "images"
        return f"Data({self.name}: {len(self)} {rows}, event_shape={self.event_shape})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return tuple(self.x.shape[1:])

    def rows(self, index: Int[Tensor, " m"]) -> "Data":
        """The same data set with the given rows only, in the given order."""
        labels = None if self.labels is None else self.labels[index]
        return Data(self.x[index], self.kind, self.name, labels, self.columns, self.bounds, self.classes)


def split(data: Data, fraction: float, generator: torch.Generator | None = None) -> tuple[Data, Data]:
    """Shuffles the rows and holds a fraction of them out; the same generator state gives the same split.

    Args:
        data: At least two observations.
        fraction: The share to hold out, strictly between 0 and 1; both parts get at least one row.
        generator: The stream that shuffles, on the CPU; PyTorch's default one without it.
    Returns:
        The training data and the held-out data: every row is in exactly one of them.
    Raises:
        ValueError: If the fraction is not between 0 and 1.
        DataError: If there are fewer than two rows.

    Example:
        >>> data = Data(torch.arange(10.0).reshape(10, 1), kind="table", name="ten")
        >>> train, held_out = split(data, 0.2, torch.Generator().manual_seed(0))
        >>> len(train), len(held_out)
        (8, 2)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie strictly between 0 and 1, the share of rows to hold out; got {fraction}.")
    n = len(data)
    if n < 2:
        raise DataError(f"{data.name} has {n} rows; splitting needs at least 2.")
    n_held_out = min(max(round(n * fraction), 1), n - 1)
    order = randperm(n, generator=generator, device="cpu").to(data.x.device)
    return data.rows(order[n_held_out:]), data.rows(order[:n_held_out])
