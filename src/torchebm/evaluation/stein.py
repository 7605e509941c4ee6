"""Do samples fit an energy? The kernel Stein discrepancy, which needs no data and no normaliser."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel, as_model, evaluating
from torchebm.core.random import uniform

from .kernels import Rows, distances, median_distance, quadratic_forms
from .points import as_points, draws_on, in_batches
from .two_sample import HypothesisTest, as_large

__all__ = ["kernel_stein_discrepancy", "kernel_stein_test"]

EXPONENT = -0.5  # of the inverse multiquadric, as Gorham & Mackey take it: it sees samples that leave for infinity


def kernel_stein_discrepancy(model: BaseModel | Callable[..., Tensor], x: Float[Tensor, " n *event"], *,
                             scale: float | None = None, batch_size: int = 1024,
                             model_kwargs: dict[str, Any] | None = None,
                             generator: torch.Generator | None = None) -> float:  # fmt: skip
    r"""Squared kernel Stein discrepancy of samples from $e^{-E}$; see `kernel_stein_test` for what it is and sees.

    Args:
        model: The energy.
        x: Samples, two or more.
        scale: $\ell$ of the kernel; the median distance between two samples if left out.
        batch_size: Points that the model sees at a time.
        model_kwargs: Keyword arguments for the model; tensors with an entry for each point are cut like them.
        generator: Source of randomness, for the median of more than a thousand points.

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
        >>> model = HarmonicModel(dim=2)
        >>> abs(kernel_stein_discrepancy(model, x)) < 0.02 < kernel_stein_discrepancy(model, 1.5 * x)
        True
    """
    rows, device = _stein_rows(model, x, scale, batch_size, model_kwargs, generator, 1)
    sums = quadratic_forms(rows, torch.ones(len(x), 1, dtype=torch.bool, device=device))[1]
    return float(sums.sum() / (len(x) * (len(x) - 1)))


def kernel_stein_test(model: BaseModel | Callable[..., Tensor], x: Float[Tensor, " n *event"], n_bootstrap: int = 999,
                      *, block_size: int = 1, scale: float | None = None, batch_size: int = 1024,
                      model_kwargs: dict[str, Any] | None = None,
                      generator: torch.Generator | None = None) -> HypothesisTest:  # fmt: skip
    r"""Tests whether samples are from $e^{-E}$, by the score alone: no data, no draws of the model, no normaliser.

    The statistic is the mean over pairs of different samples of

    $u(x, y) = s(x)^\top s(y)\, k + s(x)^\top \nabla_y k + s(y)^\top \nabla_x k + \nabla_x \cdot \nabla_y k$

    with the score $s = -\nabla E$ and $k(x, y) = (1 + \|x - y\|^2 / \ell^2)^{-1/2}$. Its expectation is zero if the
    samples are from $e^{-E}$, and positive otherwise. The p-value is that of a wild bootstrap: each sample, or block of
    them, gets a random sign, and pairs count with the product of theirs.

    Args:
        model: The energy, on all of space: at the bounds of a box or a simplex the expectation is not zero.
        x: Samples.
        n_bootstrap: Draws of the signs; the smallest p-value is one over this plus one.
        block_size: For samples of a chain: consecutive ones of this number share a sign, and pairs of one block are
            left out. `trajectory.flatten(0, 1)` with the number of draws makes each chain a block.
        scale: $\ell$; the median distance between two samples if left out.
        batch_size: Points that the model sees at a time.
        model_kwargs: Keyword arguments for the model; tensors with an entry for each point are cut like them.
        generator: Source of randomness.

    Raises:
        ValueError: If there are fewer than two blocks, or no whole number of them, or the score is not finite at a
            sample.

    Note:
        Blind to the weights of modes: where the density between modes is next to nothing, the score at one does not
        know of the other, and samples of one mode alone fit perfectly. Weak in many dimensions. The bootstrap is right
        for many samples, some hundred; with blocks, for many blocks. O(n^2) time, and n gradients.

    References: Liu et al. (2016), https://arxiv.org/abs/1602.03253; Chwialkowski et al. (2016),
    https://arxiv.org/abs/1602.02964; Gorham & Mackey (2017), https://arxiv.org/abs/1703.01717

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> g = torch.Generator().manual_seed(0)
        >>> x = torch.randn(300, 2, generator=g)
        >>> kernel_stein_test(HarmonicModel(dim=2), x, generator=g).p_value > 0.05
        True
        >>> kernel_stein_test(HarmonicModel(dim=2), x + 0.3, generator=g).p_value
        0.001
    """
    size, k = integer("block_size", block_size, at_least=1), integer("n_bootstrap", n_bootstrap, at_least=1)
    rows, device = _stein_rows(model, x, scale, batch_size, model_kwargs, generator, size)
    n = len(x)
    n_blocks, rest = divmod(n, size)
    if rest or n_blocks < 2:
        raise ValueError(
            f"x holds {n} samples, expected two or more blocks of block_size={size}"
            + (f": leave out the first {rest}." if rest else ".")
        )
    coins = uniform((n_blocks, k), generator=generator, device=draws_on(x, generator)).to(device) < 0.5
    signs = torch.ones(n_blocks, k + 1, dtype=torch.int8, device=device)
    signs[:, 1:] -= 2 * coins
    forms, _ = quadratic_forms(rows, signs.repeat_interleave(size, 0))
    values = forms / (n * (n - size))
    observed, null = values[0], values[1:]
    p_value = (1 + int(as_large(null, observed).sum())) / (1 + k)
    return HypothesisTest("kernel_stein_discrepancy", float(observed), p_value, null, (n,))


def _stein_rows(model: BaseModel | Callable[..., Tensor], x: Tensor, scale: float | None, batch_size: int,
                model_kwargs: dict[str, Any] | None, generator: torch.Generator | None,
                block_size: int) -> tuple[Rows, torch.device]:  # fmt: skip
    """Rows of the matrix of u, zero within blocks; and where they are."""
    points = as_points("x", x, at_least=2)
    points = points - points.median(0).values
    ell = number("scale", median_distance(points, generator) if scale is None else scale, above=0.0)
    score = scores_at(as_model(model), x, batch_size, model_kwargs)  # [n, d]
    along = (score * points).sum(1)  # [n]
    block = torch.arange(len(x), device=points.device) // block_size

    def rows(part: slice) -> Tensor:
        squared = (distances(points[part], points) / ell).square_()  # r² / ℓ²
        base = 1 + squared
        kernel = base**EXPONENT
        slope = 2 * EXPONENT / ell**2 * kernel / base  # the gradient of k in x is slope (x - y)
        apart = along[part, None] + along - score[part] @ points.mT - points[part] @ score.mT  # (s(x) - s(y))ᵀ(x - y)
        u = score[part] @ score.mT * kernel - slope * apart
        u -= slope * (points.shape[1] + 2 * (EXPONENT - 1) * squared / base)  # the trace of the mixed derivatives
        return u.masked_fill_(block[part, None] == block, 0.0)

    return rows, points.device


def scores_at(model: BaseModel, x: Float[Tensor, " n *event"], batch_size: int,
              model_kwargs: dict[str, Any] | None) -> Float[Tensor, "n d"]:  # fmt: skip
    """The score at each point, as rows in float64, with the model as it samples; refused where it is not finite."""
    with evaluating(model):
        return as_points("the score of the model at x", in_batches(model.score, x.detach(), batch_size, model_kwargs))
