"""Closed-form energies with closed-form gradients: targets whose answers are known."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import integer, number
from .closed_form import LOG_TWO_PI, ClosedFormModel, NumberModel, check_points, check_tensor
from .curved import BananaModel, FunnelModel, RosenbrockModel
from .gaussian import GaussianMixtureModel, GaussianModel
from .random import check_generator, uniform
from .shapes import sum_event

__all__ = [
    "AckleyModel",
    "BananaModel",
    "ClosedFormModel",
    "DoubleWellModel",
    "FunnelModel",
    "GaussianMixtureModel",
    "GaussianModel",
    "HarmonicModel",
    "RastriginModel",
    "RosenbrockModel",
    "UniformModel",
]


class HarmonicModel(NumberModel):
    r"""A spring: a normal density of variance $1/k$ in every coordinate.

    $E(x) = \tfrac12 k \lVert x \rVert^2$   (stiffness $k$)

    Args:
        k: $k$, positive.
        dim: Length of the vectors, if `log_z`, moments or `sample` are wanted; any event shape works without.

    Example:
        >>> HarmonicModel(k=2.0).gradient(torch.tensor([[1.0, 3.0]]))
        tensor([[2., 6.]])
    """

    def __init__(self, k: float = 1.0, *, dim: int | None = None) -> None:
        super().__init__(dim)
        self.k = number("k", k, above=0.0)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        return 0.5 * self.k * sum_event(x * x)

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        check_points(x, self.event_shape)
        return self.k * x.detach()

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        return self._moment([0.0] * self._dim("the mean"))

    @property
    def variance(self) -> Float[Tensor, " dim"]:
        """$1/k$ in every coordinate."""
        return self._moment([1 / self.k] * self._dim("the variance"))

    @property
    def log_z(self) -> Float[Tensor, ""]:
        r"""$\tfrac{d}{2} \log(2\pi/k)$"""
        return self._exact(0.5 * self._dim("log_z") * (LOG_TWO_PI - math.log(self.k)))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Exact, independent draws."""
        return self._randn(n, generator) / math.sqrt(self.k)


class UniformModel(ClosedFormModel):
    r"""The uniform density on a box: energy 0 inside, and infinite outside.

    Args:
        low: The lower corner, `[*event]`.
        high: The upper corner, `[*event]`, above the lower one in every coordinate.

    Example:
        >>> model = UniformModel(torch.zeros(2), torch.tensor([1.0, 4.0]))
        >>> model(torch.tensor([[0.5, 0.5], [1.5, 0.5]])), round(model.log_z.item(), 4)
        (tensor([0., inf]), 1.3863)
    """

    def __init__(self, low: Float[Tensor, "*event"], high: Float[Tensor, "*event"]) -> None:
        super().__init__()
        low, high = (check_tensor(name, t, "[*event]", range(8)) for name, t in (("low", low), ("high", high)))
        if low.shape != high.shape or not bool((low < high).all()):
            raise ValueError(f"low must lie below high, in every coordinate; got low={low.tolist()}, "
                             f"high={high.tolist()}.")  # fmt: skip
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.event_shape = low.shape

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        within = ((x >= self.low) & (x <= self.high)).reshape(len(x), -1).all(1)
        return torch.where(within, 0.0, torch.inf).to(x.dtype)

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        check_points(x, self.event_shape)
        return torch.zeros_like(x)

    @property
    def mean(self) -> Float[Tensor, "*event"]:
        """The centre of the box."""
        return 0.5 * (self.low + self.high)

    @property
    def variance(self) -> Float[Tensor, "*event"]:
        """A twelfth of the squared sides."""
        return (self.high - self.low).square() / 12

    @property
    def log_z(self) -> Float[Tensor, ""]:
        """The logarithm of the volume."""
        return (self.high.double() - self.low.double()).log().sum()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, " n *event"]:
        """Exact, independent draws."""
        check_generator(generator, self.low.device)
        shape = (integer("n", n), *self.low.shape)
        u = uniform(shape, generator=generator, dtype=self.low.dtype, device=self.low.device)
        return torch.lerp(self.low, self.high, u)


class _SeparableModel(NumberModel):
    """A sum over coordinates of one symmetric function, so that one quadrature answers for every dimension."""

    def _one(self, t: Tensor) -> Tensor:
        """The energy of one coordinate."""
        raise NotImplementedError

    def _support(self) -> tuple[float, float, float]:
        """Where in t >= 0 the density exceeds 1e-17 of its peak, from and to, and the width of its narrowest mode."""
        raise NotImplementedError

    @property
    def mean(self) -> Float[Tensor, " dim"]:
        return self._moment([0.0] * self._dim("the mean"))

    @property
    def variance(self) -> Float[Tensor, " dim"]:
        """The variance of every coordinate, by quadrature."""
        t, masses = self._masses()
        variance = float((masses * t.square()).sum() / masses.sum())
        return self._moment([variance] * self._dim("the variance"))

    @property
    def log_z(self) -> Float[Tensor, ""]:
        """By quadrature, to about 1e-13 a coordinate."""
        return self._dim("log_z") * (2 * self._masses()[1].sum()).log()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n dim"]:
        """Independent draws by the inverse distribution function, tabulated to within 1e-6 of the exact one."""
        check_generator(generator, self.anchor.device)
        shape = integer("n", n), self._dim("sample")
        t, density = self._grid()
        cdf = torch.zeros_like(t)
        torch.cumsum(0.5 * (density[1:] + density[:-1]), 0, out=cdf[1:])
        cdf /= cdf[-1].clone()
        u = uniform(shape, generator=generator, dtype=torch.float64, device=t.device).mul_(2).sub_(1)
        right = torch.searchsorted(cdf, u.abs(), right=True).clamp_(1, len(t) - 1)
        left = right - 1
        fraction = (u.abs() - cdf[left]) / (cdf[right] - cdf[left])
        return (u.sign() * torch.lerp(t[left], t[right], fraction.clamp_(0, 1))).to(self.anchor.dtype)

    def _grid(self) -> tuple[Tensor, Tensor]:
        start, stop, width = self._support()
        n_points = 512 * math.ceil((stop - start) / width) + 1
        t = torch.linspace(start, stop, n_points, dtype=torch.float64, device=self.anchor.device)
        return t, torch.exp(-self._one(t))

    def _masses(self) -> tuple[Tensor, Tensor]:
        t, density = self._grid()
        masses = density * (t[1] - t[0])
        masses[0] *= 0.5  # the trapezoid rule: exact to rounding, as the even function vanishes at the other end
        return t, masses


class DoubleWellModel(_SeparableModel):
    r"""Two wells a coordinate, at $\pm b$, with a barrier between: the standard test of crossing.

    $E(x) = h \sum_i (x_i^2 - b^2)^2$   (the barrier is $h b^4$ high)

    Args:
        barrier_height: $h$, positive; the height of the barrier when $b = 1$.
        b: $b$, positive: distance of the wells from 0.
        dim: Length of the vectors, if `log_z`, moments or `sample` are wanted; any event shape works without.

    Example:
        >>> DoubleWellModel()(torch.tensor([[0.0, 1.0]]))
        tensor([2.])
    """

    def __init__(self, barrier_height: float = 2.0, b: float = 1.0, *, dim: int | None = None) -> None:
        super().__init__(dim)
        self.barrier_height = number("barrier_height", barrier_height, above=0.0)
        self.b = number("b", b, above=0.0)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        return sum_event(self._one(x))

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        check_points(x, self.event_shape)
        x, h, b = x.detach(), self.barrier_height, self.b
        return (x * (-4 * h * b * b)).addcmul_(x, x * x, value=4 * h)  # 4h x (x² - b²) in three passes

    def _one(self, t: Tensor) -> Tensor:
        return self.barrier_height * (t * t - self.b * self.b).square()

    def _support(self) -> tuple[float, float, float]:
        h, b = self.barrier_height, self.b
        reach = math.sqrt(40 / h)  # exp(-40) is 4e-18
        return math.sqrt(max(b * b - reach, 0.0)), math.sqrt(b * b + reach), 1 / math.sqrt(8 * h * b * b + math.sqrt(h))


class RastriginModel(_SeparableModel):
    r"""A bowl with a regular lattice of local minima, one near every point of whole numbers.

    $E(x) = \sum_i x_i^2 + a\, (1 - \cos 2\pi x_i)$   (depth $a$ of the local wells)

    Args:
        a: $a$, at least 0.
        dim: Length of the vectors, if `log_z`, moments or `sample` are wanted; any event shape works without.

    Example:
        >>> RastriginModel()(torch.tensor([[0.0, 0.0], [1.0, 0.5]]))
        tensor([ 0.0000, 21.2500])
    """

    def __init__(self, a: float = 10.0, *, dim: int | None = None) -> None:
        super().__init__(dim)
        self.a = number("a", a, at_least=0.0)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        return sum_event(self._one(x))

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        check_points(x, self.event_shape)
        x = x.detach()
        return torch.add(2 * x, (2 * math.pi * x).sin_(), alpha=2 * math.pi * self.a)

    def _one(self, t: Tensor) -> Tensor:
        return t * t + self.a * (1 - torch.cos(2 * math.pi * t))

    def _support(self) -> tuple[float, float, float]:
        return 0.0, math.sqrt(40), 1 / math.sqrt(2 + 4 * math.pi**2 * self.a)


class AckleyModel(NumberModel):
    r"""A nearly flat plain with many small wells around one deep hole: hard for optimisers and short chains.

    $E(x) = a - a\, e^{-b\, r} + e - e^{m}, \quad r = \sqrt{\tfrac1n \sum_i x_i^2}, \quad
    m = \tfrac1n \sum_i \cos c x_i$

    Args:
        a: $a$, positive: the depth of the hole.
        b: $b$, positive: how fast the hole flattens out.
        c: $c$, positive: the frequency of the small wells.

    Note: the energy is bounded, so that $e^{-E}$ has no finite integral and no `log_z`: chains wander off unless they
        are confined. At 0, where the hole has a cusp, the gradient is 0.

    Example:
        >>> AckleyModel().gradient(torch.zeros(1, 2))
        tensor([[0., 0.]])
    """

    def __init__(self, a: float = 20.0, b: float = 0.2, c: float = 2 * math.pi) -> None:
        super().__init__()
        self.a = number("a", a, above=0.0)
        self.b = number("b", b, above=0.0)
        self.c = number("c", c, above=0.0)

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        check_points(x, self.event_shape)
        flat = x.reshape(*x.shape[:1], math.prod(x.shape[1:]))
        # expm1 so that the minimum is exactly 0; the norm has a subgradient of 0 at 0, which a square root has not.
        root_mean_square = torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])
        mean_cosine = torch.cos(self.c * flat).mean(1)
        return -self.a * torch.expm1(-self.b * root_mean_square) - math.e * torch.expm1(mean_cosine - 1)

    def gradient(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch *event"]:
        check_points(x, self.event_shape)
        flat = x.detach().reshape(*x.shape[:1], math.prod(x.shape[1:]))
        n = flat.shape[1]
        r = torch.linalg.vector_norm(flat, dim=1, keepdim=True) / math.sqrt(n)  # [batch, 1]
        hole = torch.where(r > 0, self.a * self.b / n * torch.exp(-self.b * r) / r, 0.0)
        ripple = self.c / n * torch.exp(torch.cos(self.c * flat).mean(1, keepdim=True))
        return (hole * flat + ripple * torch.sin(self.c * flat)).reshape(x.shape)
