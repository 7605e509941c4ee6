"""The energies in PyTorch: as modules for the library, and by name for plain loops."""

import torch
from cells import Cell
from torch import Tensor, nn


class DoubleWell(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * (x * x - 1).square().sum(-1)


class Gaussian(nn.Module):
    """Variances from 1/4 to 4 in rotated axes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("precision", precision(dim))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * ((x @ self.precision) * x).sum(-1)


def precision(dim: int) -> Tensor:
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)))[0]
    scales = torch.logspace(-0.6, 0.6, dim)
    return (rotation / scales) @ rotation.T


def mlp(dim: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = nn.Linear(dim, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()
        return nn.Sequential(*hidden, nn.Linear(128, 1), nn.Flatten(0))


def conv(dim: int) -> nn.Module:
    """8 x 8 images; 16 and 32 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU()
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *layers, nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0))


def network(cell: Cell) -> nn.Module:
    makers = {"gaussian": Gaussian, "double_well": lambda dim: DoubleWell(), "mlp": mlp, "conv": conv}
    return makers[cell.energy](cell.dim).requires_grad_(False)
