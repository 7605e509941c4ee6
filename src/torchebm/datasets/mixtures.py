r"""Densities that are mixtures in closed form: Gaussians, the checkerboard, the pinwheel."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.random import randint, randn, uniform

from .density import Density, log_mixture

__all__ = ["Checkerboard", "GaussianMixture", "Pinwheel"]


class GaussianMixture(Density):
    r"""Equally weighted isotropic Gaussians of one width, $p(x) = \frac1K\sum_k \mathcal{N}(x; c_k, \sigma^2 I)$.

    Args:
        name: Name of the density.
        centres: The $c_k$, one row of coordinates each.
        sd: $\sigma$, the standard deviation of each coordinate.
        entropy: In nats. Not given: $\log K + \frac d2\log(2\pi e\sigma^2)$, exact when the components do not overlap.

    Example:
        >>> GaussianMixture("pair", [[-3.0], [3.0]], sd=0.2).sample(5).shape
        torch.Size([5, 1])
    """

    def __init__(self, name: str, centres: Sequence[Sequence[float]], sd: float, entropy: float | None = None) -> None:
        self.centres = torch.tensor(centres, dtype=torch.float64)  # [k, d]
        self.sd = sd
        k, d = self.centres.shape
        if entropy is None:
            entropy = math.log(k) + 0.5 * d * math.log(2 * math.pi * math.e * sd**2)
        reach = 6.2 * sd  # a Gaussian leaves 6e-10 beyond
        low, high = self.centres.amin(0) - reach, self.centres.amax(0) + reach
        super().__init__(name, entropy, low.tolist(), high.tolist())

    def _draw(self, n: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "n d"]:
        k, d = self.centres.shape
        component = randint(k, (n,), generator=generator, device=device)
        noise = randn((n, d), generator=generator, dtype=torch.float64, device=device)
        return self.centres.to(device)[component] + self.sd * noise  # [n, d]

    def _log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        k = len(self.centres)
        return log_mixture(x, self.centres, self.sd, torch.full((k,), -math.log(k), dtype=torch.float64))


class Checkerboard(Density):
    r"""Uniform on the eight filled squares, of side 2, of a board over $[-4, 4]^2$: $p(x) = 1/32$ there, 0 elsewhere.

    The squares are closed, so that rounding a draw cannot move it off the board; the empty ones hold no mass at all.

    Args:
        name: Name of the density.

    Example:
        >>> Checkerboard().log_prob(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        tensor([-3.4657,    -inf])
    """

    def __init__(self, name: str = "checkerboard") -> None:
        super().__init__(name, math.log(32), (-4.0, -4.0), (4.0, 4.0))

    def _draw(self, n: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "n 2"]:
        column = randint(4, (n,), generator=generator, device=device) - 2
        row = 2 * randint(2, (n,), generator=generator, device=device) - 2 + column % 2  # filled: column + row is even
        inside = uniform((n, 2), generator=generator, dtype=torch.float64, device=device)
        return 2 * (torch.stack((column, row), dim=1) + inside)

    def _log_prob(self, x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        cell = (x / 2).floor().clamp(-2, 1)  # [n, 2]
        on_inner_edge = ((x / 2 == cell) & (x > -4)).any(dim=1)  # shared by a filled square and an empty one
        filled = (cell.sum(dim=1) % 2 == 0) | on_inner_edge
        on_board = (x.abs() <= 4).all(dim=1)
        log_p = x.new_full((len(x),), -math.inf).masked_fill(filled & on_board, -math.log(32))
        return log_p.masked_fill(x.isnan().any(dim=1), math.nan)


class Pinwheel(Density):
    r"""Five Gaussian blades bent into spirals by a twist that preserves area, hence with an exact density.

    $x = 2\,R(\tfrac{2\pi k}{5} + \tfrac14 e^{|f|})\,f$, with $f \sim \mathcal{N}((1, 0), \mathrm{diag}(0.3^2, 0.1^2))$
    in radial and tangential coordinates, $k$ uniform over the blades and $R$ a rotation. Its angle depends on
    $|f| = |x|/2$ alone, so the twist can be undone from $x$, and its Jacobian is 1. (The usual pinwheel twists by
    $e^{f_1}$ instead, which can fold the plane.)

    Args:
        name: Name of the density.

    Example:
        >>> Pinwheel().sample(5).shape
        torch.Size([5, 2])
    """

    blades, radial_sd, tangential_sd, rate, scale = 5, 0.3, 0.1, 0.25, 2.0

    def __init__(self, name: str = "pinwheel") -> None:
        super().__init__(name, 2.32058848, (-5.8, -5.8), (5.8, 5.8))

    def _draw(self, n: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "n 2"]:
        blade = randint(self.blades, (n,), generator=generator, device=device)
        noise = randn((n, 2), generator=generator, dtype=torch.float64, device=device)
        radial, tangential = 1 + self.radial_sd * noise[:, 0], self.tangential_sd * noise[:, 1]
        angle = 2 * math.pi / self.blades * blade + self.rate * torch.hypot(radial, tangential).exp()
        return self.scale * _rotate(radial, tangential, angle)

    def _log_prob(self, x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        u, v = (x / self.scale).unbind(dim=1)
        twist = self.rate * torch.linalg.vector_norm(x / self.scale, dim=1).exp()
        blade = 2 * math.pi / self.blades * torch.arange(self.blades).to(x)
        radial, tangential = _rotate(u[:, None], v[:, None], -twist[:, None] - blade).unbind(dim=-1)  # [n, blades]
        exponent = -0.5 * (((radial - 1) / self.radial_sd).square() + (tangential / self.tangential_sd).square())
        area = 2 * math.pi * self.radial_sd * self.tangential_sd * self.scale**2
        return torch.logsumexp(exponent, dim=1) - math.log(self.blades * area)


def _rotate(u: Tensor, v: Tensor, angle: Tensor) -> Float[Tensor, "*batch 2"]:
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((cos * u - sin * v, sin * u + cos * v), dim=-1)
