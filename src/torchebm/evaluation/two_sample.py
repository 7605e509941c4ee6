"""Are two sets of samples from one density? Permutation tests, with whatever distance."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.random import randperm, uniform

from .distances import coupled_squares, mean_contrast, projections
from .kernels import distances, gaussian_mixture, labelled_sums, median_distance, row_blocks
from .points import as_sets, draws_on

__all__ = ["STATISTICS", "HypothesisTest", "two_sample_test"]

Statistic = Callable[[Tensor, Tensor, int, torch.Generator | None], Tensor]


@dataclass(frozen=True, eq=False)
class HypothesisTest:
    """A statistic, and how rarely it is as large if there is no difference."""

    statistic: str
    """Which."""
    value: float
    """What it is; larger is further apart."""
    p_value: float
    """The share of values under the hypothesis that are as large, the observed one counted among them."""
    null: Float[Tensor, " n"] = field(repr=False)
    """The values under the hypothesis."""
    sizes: tuple[int, ...]
    """Points of each set."""


def two_sample_test(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"], statistic: str | Statistic = "mmd",
                    n_permutations: int = 999, *, block_size: int = 1,
                    generator: torch.Generator | None = None) -> HypothesisTest:  # fmt: skip
    r"""Tests whether two sets come from one density, by dividing their union at random.

    $p = (1 + \#\{s_\pi \ge s\}) / (1 + n)$ for n random divisions of the union into sets of the same sizes. If the
    points are independent and of one density, $p \le \alpha$ has probability $\alpha$ at most, whatever the density,
    the sizes and the statistic.

    Args:
        a: One set.
        b: Another; sizes may differ.
        statistic: `"mmd"`, the kernel's bandwidth from the union; `"energy_distance"`; `"sliced_wasserstein"`, along
            100 directions; `"classifier"`, the accuracy of a vote of the nearest neighbours, each point left out in
            turn. Or a function `(x, labels, block_size, generator) -> [k]` of the union, `[n + m, d]`, and its
            divisions, `[n + m, k]`, that is large where sets differ.
        n_permutations: Divisions; the smallest p-value is one over this plus one.
        block_size: For points that are not independent: consecutive points of this number stay together. For a
            trajectory, `trajectory.flatten(0, 1)` with the number of draws makes each chain a block.
        generator: Source of randomness.

    Returns:
        A `HypothesisTest`; the values of all divisions are its `null`.

    Raises:
        ValueError: If a set is too small, not finite, or no multiple of `block_size`; if event shapes differ; if there
            is no such statistic.
        TypeError: If a set is not a tensor of real numbers.

    Note:
        Draws of a chain that follow each other are alike, and a test that takes them for independent finds differences
        that are none. Best is one draw of each of many chains. Blocks must be longer than the chain remembers, and
        should be at least ten in each set. Blocks of a chain beside independent draws are exchangeable only roughly,
        and as long as both sets have the same size.

        A matrix of distances is computed once, in blocks of rows: O((n + m)^2 n_permutations) multiplications, and
        (n + m) n_permutations bytes. On one core 999 permutations of 1000 + 1000 points take one to three seconds.

    References: Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html; Székely & Rizzo (2013),
    https://doi.org/10.1016/j.jspi.2013.03.018; Lopez-Paz & Oquab (2017), https://arxiv.org/abs/1610.06545; Phipson &
    Smyth (2010), https://doi.org/10.2202/1544-6115.1585

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(2, 100, 2, generator=g)
        >>> two_sample_test(a, b, generator=g).p_value > 0.05
        True
        >>> two_sample_test(a, 2.0 * b, "energy_distance", generator=g).p_value
        0.001
    """
    one, other = as_sets(a, b, at_least=2)
    size, k = integer("block_size", block_size, at_least=1), integer("n_permutations", n_permutations, at_least=1)
    for name, x in (("a", a), ("b", b)):
        if len(x) % size:
            raise ValueError(
                f"{name} holds {len(x)} points, which is no multiple of block_size={size}: leave out the first "
                f"{len(x) % size}."
            )
    name = statistic if isinstance(statistic, str) else getattr(statistic, "__name__", type(statistic).__name__)
    if isinstance(statistic, str):
        if statistic not in STATISTICS:
            raise ValueError(f"there is no statistic {statistic!r}; there are {sorted(STATISTICS)}; or write one.")
        statistic = STATISTICS[statistic]
    elif not callable(statistic):
        raise TypeError(f"statistic must be a name or a function; got {name}.")
    x, labels = divisions(one, other, k, size, generator)
    values = statistic(x, labels, size, generator)
    if values.shape != (k + 1,):
        raise ValueError(f"{name} returned shape {list(values.shape)}; expected [{k + 1}], one number a division.")
    observed, null = values[0], values[1:]
    p_value = (1 + int(as_large(null, observed).sum())) / (1 + k)
    return HypothesisTest(name, float(observed), p_value, null, (len(a), len(b)))


def divisions(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], k: int, block_size: int,
              generator: torch.Generator | None) -> tuple[Float[Tensor, "n_m d"], Bool[Tensor, "n_m k_1"]]:  # fmt: skip
    """The union in random order, and its division in two sets: first the observed one, then k random ones.

    The order is random because statistics may depend on it where distances are tied.
    """
    n_blocks, device = (len(a) + len(b)) // block_size, draws_on(a, generator)
    order = randperm(n_blocks, generator=generator, device=device).to(a.device)
    blocks = torch.cat([a, b]).reshape(n_blocks, -1)[order]
    labels = torch.empty(n_blocks, k + 1, dtype=torch.bool, device=a.device)
    labels[:, 0] = order < len(a) // block_size
    for part in row_blocks(k, n_blocks):
        keys = uniform((part.stop - part.start, n_blocks), generator=generator, dtype=torch.float64, device=device)
        chosen = keys.argsort(1).to(a.device) < len(a) // block_size  # of a random permutation, as many are as small
        labels[:, 1 + part.start : 1 + part.stop] = chosen.mT
    return blocks.reshape(len(a) + len(b), -1), labels.repeat_interleave(block_size, 0)


def as_large(null: Float[Tensor, " k"], observed: Float[Tensor, ""]) -> Bool[Tensor, " k"]:
    """Which values are as large as the observed one; those that differ by rounding are equal."""
    return null >= observed - 1e-10 * torch.maximum(null.abs().max(), observed.abs())


# statistics: of the union, `[n, d]`, divided in two, `[n, k]` -------------------------------------------------------


def _mmd(x: Tensor, labels: Tensor, block_size: int, generator: torch.Generator | None) -> Float[Tensor, " k"]:
    sums = labelled_sums(x, gaussian_mixture(median_distance(x, generator)), labels)
    n = int(labels[:, 0].sum())
    return mean_contrast(*sums, n, len(x) - n, unbiased=True)


def _energy_distance(x: Tensor, labels: Tensor, block_size: int,
                     generator: torch.Generator | None) -> Float[Tensor, " k"]:  # fmt: skip
    n = int(labels[:, 0].sum())
    return mean_contrast(*labelled_sums(x, torch.neg, labels), n, len(x) - n, unbiased=False)


def _sliced_wasserstein(x: Tensor, labels: Tensor, block_size: int,
                        generator: torch.Generator | None) -> Float[Tensor, " k"]:  # fmt: skip
    directions = projections(x.shape[1], 1 if x.shape[1] == 1 else 100, generator=generator).to(x)
    values, order = (x @ directions).mT.sort(1)  # [direction, n]: sorted once, and parts of it stay sorted
    first = labels.mT.contiguous()  # [k, n]
    found = []
    for part in row_blocks(len(first), values.numel()):
        here = first[part][:, order]  # [k, direction, n]
        sets = (values.expand_as(here).gather(2, true_in_rows(mask)) for mask in (here, ~here))
        found.append(coupled_squares(*sets).mean(1).sqrt())
    return torch.cat(found)


def true_in_rows(mask: Bool[Tensor, "*row n"]) -> Int[Tensor, "*row m"]:
    """Where a mask holds in each row, in order; as many times in each."""
    if mask.device.type == "cpu":  # NumPy is twenty times faster at this
        where = torch.from_numpy(np.flatnonzero(mask.numpy()))
    else:
        where = mask.flatten().nonzero().squeeze(1)
    n = mask.shape[-1]
    starts = torch.arange(mask.numel() // n, device=mask.device).reshape(*mask.shape[:-1], 1) * n
    return where.reshape(*mask.shape[:-1], -1) - starts


def _classifier(x: Tensor, labels: Tensor, block_size: int,
                generator: torch.Generator | None) -> Float[Tensor, " k"]:  # fmt: skip
    """Mean over both sets of the share that neighbours vote into the right one; a tie is half right.

    Neighbours do not depend on the division, so they are looked for once, in other blocks than the point's own.
    """
    n, k = len(x), min(math.isqrt(len(x)) | 1, len(x) - block_size)
    nearest = neighbours(x, k, block_size)
    share = int(labels[:, 0].sum()) / n
    found = []
    for columns in row_blocks(labels.shape[1], nearest.numel()):
        first = labels[:, columns]  # [n, k]
        votes = first[nearest].sum(1) / k  # [n, k]
        right = 0.5 + 0.5 * (votes - share).sign() * torch.where(first, 1.0, -1.0)
        mean_of = [(right * these).sum(0, dtype=torch.float64) / these.sum(0) for these in (first, ~first)]
        found.append((mean_of[0] + mean_of[1]) / 2)
    return torch.cat(found)


def neighbours(x: Float[Tensor, "n d"], k: int, block_size: int = 1) -> Int[Tensor, "n k"]:
    """The k nearest points of each, in other blocks than its own."""
    block = torch.arange(len(x), device=x.device) // block_size
    return torch.cat([
        distances(x[part], x).masked_fill_(block[part, None] == block, torch.inf).topk(k, largest=False).indices
        for part in row_blocks(len(x), len(x))
    ])  # fmt: skip


STATISTICS: dict[str, Statistic] = {
    "mmd": _mmd,
    "energy_distance": _energy_distance,
    "sliced_wasserstein": _sliced_wasserstein,
    "classifier": _classifier,
}
"""By the names that `two_sample_test` takes."""
