"""What no sampler can do without: the noise, by PyTorch's generator, and the arithmetic of the matrix products.

The arithmetic is charged at the fastest product of large matrices that the machine shows in this run.
"""

import time
from collections.abc import Callable

import torch
from cells import Cell
from protocol import Prepared, serve


def products(n: int) -> list[Callable[[], object]]:
    """Ways to multiply two n x n matrices."""
    a, b = torch.ones(n, n), torch.ones(n, n)
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b), lambda: torch.nn.functional.linear(a, b)]
    if torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return ways


def fastest_product(sizes: tuple[int, ...] = (1024, 2048), repeats: int = 5) -> float:
    """Floating-point operations per second."""
    rate = 0.0
    for n in sizes:
        for product in products(n):
            product()
            for _ in range(repeats):
                began = time.perf_counter()
                product()
                rate = max(rate, 2 * n**3 / (time.perf_counter() - began))
    return rate


def prepare(cell: Cell) -> Prepared | None:
    if cell.sampler == "nuts":  # how many gradients there are depends on the draws
        return None
    arithmetic = cell.chains * cell.gradients * cell.operations / fastest_product()
    noise, uniform = torch.empty(cell.chains, cell.dim), torch.empty(cell.chains)
    accepts = cell.sampler != "langevin"

    def run(n_steps: int) -> float:
        began = time.perf_counter()
        for _ in range(n_steps):
            noise.normal_()
            if accepts:
                uniform.uniform_()
        return time.perf_counter() - began + n_steps * arithmetic

    return run


serve(prepare)
