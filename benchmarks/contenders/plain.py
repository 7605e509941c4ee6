"""A loop in PyTorch as one writes it in an afternoon, autograd and all: what the library must not be slower than."""

import torch
from cells import LEAPFROG_STEPS, Cell
from protocol import Prepared, serve
from torch import Tensor
from torch_energies import network


def prepare(cell: Cell) -> Prepared | None:
    net, h = network(cell), cell.step_size

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        energy = net(x)
        return energy.detach(), torch.autograd.grad(energy.sum(), x)[0]

    def langevin(x: Tensor, energy: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x - h * gradient + (2 * h) ** 0.5 * torch.randn_like(x)
        return x, *evaluate(x)

    def accept(state: tuple[Tensor, ...], new: tuple[Tensor, ...], log_ratio: Tensor) -> tuple[Tensor, ...]:
        ok = torch.rand_like(log_ratio).log() < log_ratio
        return tuple(torch.where(ok.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, state, strict=True))

    def mala(x: Tensor, energy: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        y = x - h * gradient + (2 * h) ** 0.5 * torch.randn_like(x)
        new = (y, *evaluate(y))
        forward, back = (y - x + h * gradient).square().sum(1), (x - y + h * new[2]).square().sum(1)
        return accept((x, energy, gradient), new, energy - new[1] + (forward - back) / (4 * h))

    def hmc(x: Tensor, energy: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        p = torch.randn_like(x)
        y, q, g = x, p - 0.5 * h * gradient, gradient
        for i in range(LEAPFROG_STEPS):
            y = y + h * q
            e, g = evaluate(y)
            q = q - (h if i < LEAPFROG_STEPS - 1 else 0.5 * h) * g
        log_ratio = energy - e + 0.5 * (p.square().sum(1) - q.square().sum(1))
        return accept((x, energy, gradient), (y, e, g), log_ratio)

    step = {"langevin": langevin, "mala": mala, "hmc": hmc}.get(cell.sampler)
    if step is None:
        return None
    start = torch.randn(cell.chains, cell.dim)

    def run(n_steps: int) -> None:
        state = (start, *evaluate(start))
        for _ in range(n_steps):
            state = step(*state)

    return run


serve(prepare)
