"""Which rows make up which batch: a function of seed and step, so that a resumed run sees what it would have seen."""

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from torchebm.core.checks import integer
from torchebm.core.random import generator_for, randperm

__all__ = ["Batches"]


class Batches:
    """Batches by step: every epoch is a permutation of the data, and what is left over at its end is passed over.

    Args:
        data: A tensor `[n, *event]`, or a map-style dataset of such points.
        batch_size: Rows in a batch; at most n.
        key: Of the random stream.
    """

    def __init__(self, data: Tensor | Dataset, batch_size: int, key: tuple[int | str, ...]) -> None:
        if not isinstance(data, Tensor) and not (isinstance(data, Sized) and hasattr(data, "__getitem__")):
            raise TypeError(f"data must be a tensor [n, *event] or a dataset with a length; got {type(data).__name__}.")
        self.data, self.key = data, key
        self.batch_size = integer("batch_size", batch_size, at_least=1)
        self.per_epoch = len(data) // self.batch_size
        if self.per_epoch == 0:
            raise ValueError(
                f"batch_size={batch_size} exceeds the {len(data)} rows of data: give a smaller batch_size."
            )
        if isinstance(data, Tensor) and not bool(data.isfinite().all()):
            row = int((~data.isfinite()).reshape(len(data), -1).any(1).nonzero()[0])
            raise ValueError(f"data must be finite; row {row}, counted from 0, has NaN or infinite entries.")
        self._epoch, self._order = -1, torch.empty(0)
        self._box: tuple[Tensor, Tensor] | None = None

    def reseed(self, key: tuple[int | str, ...]) -> None:
        """Other permutations from here on."""
        self.key, self._epoch = key, -1

    def box_around(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value of each component: of all data, or of a batch if they are a dataset.

        A dataset may draw random numbers when it is read, so it is read by no one but `__getitem__`.
        """
        if self._box is None or not isinstance(self.data, Tensor):
            points = self.data if isinstance(self.data, Tensor) else batch
            self._box = points.amin(0), points.amax(0)
        return self._box

    def __getitem__(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, randperm(len(self.data), generator=generator_for(*self.key, epoch))
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        if isinstance(self.data, Tensor):
            return self.data[rows.to(self.data.device)]
        if isinstance(self.data, TensorDataset):  # the same as row by row, in one piece
            batch: Any = [tensor[rows.to(tensor.device)] for tensor in self.data.tensors]
        else:
            batch = default_collate([self.data[int(row)] for row in rows])
        return batch[0] if isinstance(batch, list) and len(batch) == 1 else batch  # as TensorDataset(x) gives them
