"""Closed-form energies in curved coordinates: each coordinate is normal given those before it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import number
from .closed_form import LOG_TWO_PI, NumberModel, check_points
from .shapes import per_chain

__all__ = ["BananaModel", "FunnelModel", "RosenbrockModel"]


class RosenbrockModel(NumberModel):
    r"""A narrow curved valley along a parabola: strong correlation that turns from place to place.

    $E(x) = \sum_{i<d} b\, (x_{i+1} - x_i^2)^2 + (a - x_i)^2$

    Args:
        a: $a$: the lowest point is $(a, a^2)$ in two dimensions.
        b: $b$, positive: how narrow the valley is.
        dim: Length of the vectors, 2 or more; `log_z`, moments and `sample` exist for `dim=2`.

    Example:
        >>> RosenbrockModel().gradient(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        tensor([[ 0.,  0.],
                [-2.,  0.]])
    """

    def __init__(self, a: float = 1.0, b: float = 100.0, *, dim: int | None = None) -> None:
        super().__init__(dim, at_least=2)
        self.a = number("a", a)
        self.b = number("b", b, above=0.0)

    def forward(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        head, gap = self._head_and_gap(x)
        return (self.b * gap.square() + (self.a - head).square()).sum(1)

    def gradient(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, "batch dim"]:
        x = x.detach()
        head, gap = self._head_and_gap(x)
        gradient = torch.zeros_like(x)
        gradient[:, :-1] = 2 * (head - self.a) - 4 * self.b * head * gap
        gradient[:, 1:] += 2 * self.b * gap
        return gradient

    @property
    def mean(self) -> Float[Tensor, "2"]:
        self._only_in_the_plane("the mean")
        return self._moment([self.a, self.a**2 + 0.5])

    @property
    def cov(self) -> Float[Tensor, "2 2"]:
        self._only_in_the_plane("the covariance")
        return self._moment([[0.5, self.a], [self.a, 0.5 + 2 * self.a**2 + 0.5 / self.b]])

    @property
    def log_z(self) -> Float[Tensor, ""]:
        r"""$\log(\pi / \sqrt b)$, in two dimensions."""
        self._only_in_the_plane("log_z")
        return self._exact(math.log(math.pi) - 0.5 * math.log(self.b))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Exact, independent draws in two dimensions: the first coordinate, then the second given it."""
        self._only_in_the_plane("sample")
        z = self._randn(n, generator)
        first = self.a + z[:, 0] / math.sqrt(2)
        return torch.stack([first, first.square() + z[:, 1] / math.sqrt(2 * self.b)], 1)

    def _head_and_gap(self, x: Tensor) -> tuple[Tensor, Tensor]:
        check_points(x, self.event_shape)
        if x.ndim != 2 or x.shape[1] < 2:
            raise ValueError(f"x must be [batch, dim] with dim at least 2; got shape {list(x.shape)}.")
        head = x[:, :-1]
        return head, x[:, 1:] - head * head

    def _only_in_the_plane(self, what: str) -> None:
        if self.event_shape != (2,):
            raise ValueError(f"{what} of RosenbrockModel is known in two dimensions only: build it with dim=2.")


class FunnelModel(NumberModel):
    r"""Neal's funnel: one coordinate sets the scale of all others, from tiny to huge, so no one step size suits.

    $E(x) = \frac{v^2}{2 s^2} + \tfrac12 \sum_{i \ge 1} x_i^2 e^{-v} + \frac{d - 1}{2} v, \quad v = x_0$

    that is, $v \sim \mathcal N(0, s^2)$ and $x_i \mid v \sim \mathcal N(0, e^v)$.

    Args:
        dim: $d$, at least 2.
        scale: $s$, positive.

    References: Neal (2003), Slice sampling, https://doi.org/10.1214/aos/1056562461
    Example:
        >>> FunnelModel(dim=3)(torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([1.])
    """

    def __init__(self, dim: int = 10, scale: float = 3.0) -> None:
        super().__init__(dim, at_least=2)
        self.dim = dim
        self.scale = number("scale", scale, above=0.0)

    def forward(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        v, rest = x[:, 0], x[:, 1:]
        squares = torch.exp(-v) * rest.square().sum(1)
        return 0.5 * (v / self.scale).square() + 0.5 * squares + 0.5 * rest.shape[1] * v

    def gradient(self, x: Float[Tensor, "batch dim"], **model_kwargs: Tensor) -> Float[Tensor, "batch dim"]:
        check_points(x, self.event_shape)
        x = x.detach()
        v, rest = x[:, 0], x[:, 1:]
        gradient = x * per_chain(torch.exp(-v), x)
        squares = (rest * gradient[:, 1:]).sum(1)
        gradient[:, 0] = v / self.scale**2 - 0.5 * squares + 0.5 * rest.shape[1]
        return gradient

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        return self._moment([0.0] * self.dim)

    @property
    def variance(self) -> Float[Tensor, " dim"]:
        """$s^2$, then $e^{s^2/2}$ for every other coordinate; all are uncorrelated."""
        return self._moment([self.scale**2] + [math.exp(0.5 * self.scale**2)] * (self.dim - 1))

    @property
    def log_z(self) -> Float[Tensor, ""]:
        r"""$\tfrac{d}{2} \log 2\pi + \log s$"""
        return self._exact(0.5 * self.dim * LOG_TWO_PI + math.log(self.scale))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Exact, independent draws: the scale, then the rest given it."""
        z = self._randn(n, generator)
        v = self.scale * z[:, :1]
        return torch.cat([v, torch.exp(0.5 * v) * z[:, 1:]], 1)


class BananaModel(NumberModel):
    r"""A normal density in the plane, bent along a parabola: curved and thin, yet everything about it is known.

    $E(x) = \frac{x_0^2}{2 s^2} + \tfrac12 \left(x_1 - c\,(x_0^2 - s^2)\right)^2$

    that is, $x_0 \sim \mathcal N(0, s^2)$ and $x_1 \mid x_0 \sim \mathcal N(c\,(x_0^2 - s^2), 1)$.

    Args:
        curvature: $c$; 0 for a normal density.
        scale: $s$, positive: half the length of the banana.

    References: Haario, Saksman & Tamminen (1999), https://doi.org/10.1007/s001800050022
    Example:
        >>> model = BananaModel(curvature=0.5, scale=2.0)
        >>> model.cov
        tensor([[4., 0.],
                [0., 9.]])
    """

    def __init__(self, curvature: float = 0.5, scale: float = 2.0) -> None:
        super().__init__(2)
        self.curvature = number("curvature", curvature)
        self.scale = number("scale", scale, above=0.0)

    def forward(self, x: Float[Tensor, "batch 2"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        first, second = x.unbind(1)
        return 0.5 * (first / self.scale).square() + 0.5 * (second - self._bend(first)).square()

    def gradient(self, x: Float[Tensor, "batch 2"], **model_kwargs: Tensor) -> Float[Tensor, "batch 2"]:
        check_points(x, self.event_shape)
        first, second = x.detach().unbind(1)
        off = second - self._bend(first)
        return torch.stack([first / self.scale**2 - 2 * self.curvature * first * off, off], 1)

    @property
    def mean(self) -> Float[Tensor, "2"]:
        return self._moment([0.0, 0.0])

    @property
    def cov(self) -> Float[Tensor, "2 2"]:
        return self._moment([[self.scale**2, 0.0], [0.0, 1 + 2 * self.curvature**2 * self.scale**4]])

    @property
    def log_z(self) -> Float[Tensor, ""]:
        r"""$\log 2\pi s$"""
        return self._exact(LOG_TWO_PI + math.log(self.scale))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """Exact, independent draws: the first coordinate, then the second given it."""
        z = self._randn(n, generator)
        first = self.scale * z[:, 0]
        return torch.stack([first, self._bend(first) + z[:, 1]], 1)

    def _bend(self, first: Tensor) -> Tensor:
        return self.curvature * (first.square() - self.scale**2)
