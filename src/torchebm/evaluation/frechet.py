"""The Fréchet distance between features, of whatever network the user trusts."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, warn_caller

from .points import as_sets

__all__ = ["frechet_distance"]


@torch.no_grad()
def frechet_distance(a: Float[Tensor, " n *event"], b: Float[Tensor, " m *event"],
                     features: Callable[[Tensor], Tensor] | None = None, *,
                     batch_size: int = 256) -> float:  # fmt: skip
    r"""Squared Fréchet distance between the Gaussians with the moments of two sets, in the space of given features.

    $\|\mu_a - \mu_b\|^2 + \mathrm{tr}\big(\Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2}\big)$, which is also the
    squared Wasserstein-2 distance of these Gaussians. With the pooling layer of a certain network trained on ImageNet
    as features it is known as FID.

    Args:
        a: One set.
        b: Another.
        features: `[batch, *event] -> [batch, ...]`, such as a trained classifier without its last layer, in `eval()`;
            the points themselves if left out.
        batch_size: Points that `features` sees at a time.

    Raises:
        ValueError: If points or features are not finite, or fewer than two.

    Warns:
        UserWarning: If a set has no more points than features, so that its covariance has no inverse, and the distance
            is far too large.

    Note:
        Biased upwards, by an amount that falls as 1/n and depends on the features: compare figures of one n only, and
        of ten times as many points as features. Sees means and covariances, nothing else. The trace of the root is the
        sum of the singular values of $R_a R_b^\top$, with the triangular factors of the centred features: no
        covariance is squared, and none needs an inverse. Rounding may leave -1e-12 where sets are equal.

    References: Dowson & Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X; Heusel et al. (2017),
    https://arxiv.org/abs/1706.08500; Chong & Forsyth (2020), https://arxiv.org/abs/1911.07023

    Example:
        >>> a = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
        >>> round(frechet_distance(a, a + 2.0), 4), round(frechet_distance(a, -a), 1)
        (12.0, 0.0)
    """
    if features is not None:
        a, b = (_in_batches(features, x, name, batch_size) for x, name in ((a, "a"), (b, "b")))
    one, other = as_sets(a, b, ("a", "b") if features is None else ("features of a", "features of b"), at_least=2)
    d = one.shape[1]
    if min(len(one), len(other)) <= d:
        warn_caller(
            f"sets of {len(one)} and {len(other)} points with {d} features each: a covariance of no more points than "
            f"features is singular, and the distance is far too large. Take {10 * d} points, or fewer features.",
            UserWarning,
        )
    means = [x.mean(0) for x in (one, other)]
    centred = [x - mean for x, mean in zip((one, other), means, strict=True)]
    roots = [torch.linalg.qr(x, mode="r").R / (len(x) - 1) ** 0.5 for x in centred]  # Σ = RᵀR
    between = torch.linalg.svdvals(roots[0] @ roots[1].mT).sum()
    spread = sum(root.square().sum() for root in roots)
    return float((means[0] - means[1]).square().sum() + spread - 2 * between)


def _in_batches(features: Callable[[Tensor], Tensor], x: Tensor, name: str, batch_size: int) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        got = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a tensor [n, *event] of at least one point; got {got}.")
    parts = []
    for part in x.split(integer("batch_size", batch_size, at_least=1)):
        found = features(part)
        if not isinstance(found, Tensor) or found.shape[:1] != part.shape[:1]:
            got = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features returned {got} for {len(part)} points; expected [{len(part)}, ...].")
        parts.append(found)
    return torch.cat(parts)
