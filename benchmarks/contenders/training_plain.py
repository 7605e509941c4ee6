"""Persistent contrastive divergence as a loop that one writes in an afternoon."""

import torch
from cells import TRAINING_SETTINGS as S
from cells import TrainingCell
from protocol import Prepared, serve
from training_data import data, network


def prepare(cell: TrainingCell) -> Prepared:
    torch.manual_seed(0)
    net, x, h = network(cell), data(cell), S["step_size"]
    optimizer = torch.optim.Adam(net.parameters(), lr=S["learning_rate"])
    buffer = torch.randn(int(S["buffer_size"]), cell.dim)

    def update() -> None:
        batch = x[torch.randint(len(x), (cell.batch,))]
        slots = torch.randint(len(buffer), (cell.batch,))
        chains = torch.where(torch.rand(cell.batch, 1) < S["fresh"], torch.randn(cell.batch, cell.dim), buffer[slots])
        net.requires_grad_(False)
        for _ in range(cell.k_steps):
            chains.requires_grad_()
            (gradient,) = torch.autograd.grad(net(chains).sum(), chains)
            chains = chains.detach() - h * gradient + (2 * h) ** 0.5 * torch.randn_like(chains)
        net.requires_grad_(True)
        buffer[slots] = chains
        above, below = net(batch), net(chains)
        level = above.square().mean() + below.square().mean()
        loss = above.mean() - below.mean() + 0.5 * S["energy_weight"] * level
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            update()

    return run


serve(prepare, TrainingCell)
