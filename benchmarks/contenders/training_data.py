"""Data and networks that every contender trains with."""

import torch
from cells import TrainingCell
from torch import Tensor, nn


def data(cell: TrainingCell) -> Tensor:
    """Four clusters in the plane; above it, points as dark and bright as the pixels of digits."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, cell.dim, generator=generator)
    if cell.dim == 2:
        return 0.3 * x + 2 * (torch.randint(2, (2000, 2), generator=generator) - 0.5)
    return torch.sigmoid(2 * x)


def network(cell: TrainingCell) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = nn.Linear(cell.dim, cell.width), nn.SiLU(), nn.Linear(cell.width, cell.width), nn.SiLU()
        return nn.Sequential(*hidden, nn.Linear(cell.width, 1), nn.Flatten(0))
