"""Batches of points with their labels."""

import torch
from torch.utils.data import Dataset, TensorDataset

from torchebm.training.batches import Batches


class Rows(Dataset):
    """Tensors row by row."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors[0])

    def __getitem__(self, i):
        return tuple(tensor[i] for tensor in self.tensors)


def test_they_are_those_that_would_be_collected_row_by_row():
    x, label = torch.randn(20, 3), torch.arange(20)
    whole, single = (Batches(kind(x, label), 6, (0, "batches")) for kind in (TensorDataset, Rows))
    for step in range(7):
        for one, other in zip(whole[step], single[step], strict=True):
            assert torch.equal(one, other)
    assert torch.equal(Batches(TensorDataset(x), 6, (0, "batches"))[3], whole[3][0])
