"""Densities of whole values in the coordinates of a Gaussian copula: marginals made normal, then whitened."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from .checks import number
from .model import BaseModel
from .transformed import LinearTransform, RebuiltModel

__all__ = ["CopulaModel", "CopulaTransform"]


class CopulaTransform(Transform):
    r"""$x_i = F_i^{-1}(\Phi(m_i + (A z)_i))$: normal vectors to values whose marginals are histograms $F_i$.

    Args:
        mean: $m$, `[*event]` with d entries.
        matrix: $A$, `[d, d]`, invertible.
        masses: Of the bins of each component, `[d, bins]`: positive, with sums of 1.
        low: Where the first bin begins.
        width: Of a bin.
        inverse: $A^{-1}$, where it is known.

    Note: computed in float64, whatever the dtype of the points. Values lie strictly between the ends of the first and
        the last bin; an end itself, which dequantised data can round to, counts as the number next to it.
    """

    domain = constraints.real_vector
    bijective = True

    def __init__(self, mean: Float[Tensor, "*event"], matrix: Float[Tensor, "d d"], masses: Float[Tensor, "d bins"],
                 low: float = -0.5, width: float = 1.0, inverse: Tensor | None = None) -> None:  # fmt: skip
        super().__init__()
        self.linear = LinearTransform(mean, matrix, inverse)
        if masses.ndim != 2 or len(masses) != mean.numel() or not bool((masses > 0).all()):
            raise ValueError(
                f"masses must be positive, [d, bins] with d = {mean.numel()}, the entries of mean; got shape "
                f"{list(masses.shape)} and a least value of {float(masses.min()) if masses.numel() else math.nan:.4g}."
            )
        self.low, self.width = number("low", low), number("width", width, above=0.0)
        self.high = self.low + self.width * masses.shape[1]
        self.masses = masses
        cumulative = masses.double().cumsum(1)
        if not bool(((cumulative[:, -1] - 1).abs() < 1e-3).all()):
            raise ValueError("the masses of every component must sum to 1.")
        self.scaled = masses.double() / cumulative[:, -1:]
        self.edges = torch.nn.functional.pad(self.scaled.cumsum(1)[:, :-1], (1, 0))  # mass below each bin
        self.above = torch.nn.functional.pad(self.scaled.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)  # and above it

    @property
    def codomain(self) -> constraints.Constraint:
        return constraints.independent(constraints.interval(self.low, self.high), self.linear.mean.ndim)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        return self.linear.forward_shape(shape)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return self.linear.inverse_shape(shape)

    def _call(self, z: Tensor) -> Tensor:
        normal = cast(Tensor, self.linear(z)).flatten(1).double()  # [n, d]
        lower = torch.special.ndtr(normal)
        bins = torch.searchsorted(self.edges, lower.T.detach().contiguous(), right=True).T - 1  # [n, d]
        mass, below, _ = self._at(bins)
        share = (lower - below) / mass
        x = self.low + self.width * (bins + share)
        return self._inside(x.to(z.dtype)).view(-1, *self.linear.mean.shape)

    def _inverse(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear.inv(self._normal(x)[0].to(x.dtype).view(x.shape)))

    def log_abs_det_jacobian(self, z: Tensor, x: Tensor) -> Tensor:
        normal, mass = self._normal(x)
        log_density = -0.5 * normal.square() - 0.5 * math.log(2 * math.pi)
        log_slope = (log_density - (mass / self.width).log()).sum(1)  # of dx / d normal
        return (log_slope + self.linear.log_det).to(z.dtype)

    def _normal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The normal value of each component, and the mass of the bin it is in; each `[n, d]`, in float64."""
        last = math.nextafter(self.masses.shape[1], 0.0)  # the division rounds, at the upper end to beyond it
        place = ((self._inside(x).flatten(1).double() - self.low) / self.width).clamp(max=last)
        bins = place.detach().floor().long()
        mass, below, above = self._at(bins)
        share = place - bins
        lower, upper = below + share * mass, above + (1 - share) * mass
        left = lower < 0.5
        half = 0.5 * torch.ones_like(lower)  # keeps the branch that is not taken, and its slope, finite
        tail = torch.where(left, torch.special.ndtri(torch.where(left, lower, half)),
                           -torch.special.ndtri(torch.where(left, half, upper)))  # fmt: skip
        return tail, mass

    def _at(self, bins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mass of each component's bin, below it and above it."""
        rows = torch.arange(len(self.masses), device=bins.device)
        return self.scaled[rows, bins], self.edges[rows, bins], self.above[rows, bins]

    def _inside(self, x: Tensor) -> Tensor:
        """The ends themselves, and what lies beyond them, moved to the last number inside."""
        ends = torch.tensor([self.low, self.high], dtype=x.dtype, device=x.device)
        least, most = torch.nextafter(ends, ends.flip(0))
        return x.clamp(least, most)


class CopulaModel(RebuiltModel):
    r"""An energy in the coordinates of a Gaussian copula, as a density of dequantised whole values.

    $x_i = F_i^{-1}(\Phi(m_i + (A z)_i))$ with the marginal distribution $F_i$ of each component, a histogram with one
    bin a value; z has mean 0 and covariance I over the data

    With $E_z(z) = \tfrac12 |z|^2$ this is a Gaussian copula. Values that are often the same, as the black border of
    images or counts that are mostly zero, cost a Gaussian in the data's own units much: it is as wide as their bins
    at least, and cannot end at an edge. Here they are as smooth as any other component. Outside the bins the energy is
    infinite.

    Args:
        inner: The energy of z, vectors of length d.
        mean: $m$, `[*event]` with d entries.
        matrix: $A$, `[d, d]`; `from_data` finds all of these.
        masses: Of the bins of each component, `[d, bins]`.
        low: Where the first bin begins.
        width: Of a bin.

    References: Liu, Lafferty & Wasserman (2009), https://www.jmlr.org/papers/v10/liu09a.html; Theis, van den Oord &
    Bethge (2016), https://arxiv.org/abs/1511.01844

    Example:
        >>> from torchebm.core import HarmonicModel
        >>> counts = torch.poisson(torch.rand(500, 3), generator=torch.Generator().manual_seed(0)).clamp(max=9)
        >>> model = CopulaModel.from_data(HarmonicModel(), counts, lowest=0, highest=9)
        >>> z = model.transform.inv(counts + torch.rand(500, 3) - 0.5)
        >>> bool((z.T.cov() - torch.eye(3)).abs().max() < 0.2), model(torch.full((1, 3), 9.6))
        (True, tensor([inf]))
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor
    masses: Tensor
    ends: Tensor

    def __init__(self, inner: BaseModel, mean: Float[Tensor, "*event"], matrix: Float[Tensor, "d d"],
                 masses: Float[Tensor, "d bins"], low: float = -0.5, width: float = 1.0) -> None:  # fmt: skip
        transform = CopulaTransform(mean, matrix, masses, low, width)
        super().__init__(inner, transform)
        self.event_shape = mean.shape
        for name in ("mean", "matrix", "inverse"):
            self.register_buffer(name, getattr(transform.linear, name))
        self.register_buffer("masses", masses)
        self.register_buffer("ends", torch.tensor([transform.low, transform.high], dtype=torch.float64))

    @classmethod
    def from_data(cls, inner: BaseModel, data: Float[Tensor, " n *event"], lowest: float, highest: float, *,
                  width: float = 1.0, pseudo_count: float = 0.3, noise: float = 0.0) -> "CopulaModel":  # fmt: skip
        r"""The marginals and the correlations of data.

        Both are of data with uniform noise of one bin about every value: the moments of that noise are known, so none
        is drawn.

        Args:
            inner: The energy of z.
            data: At least two points, of values `lowest`, `lowest + width`, ... `highest`.
            lowest: The lowest value that there can be.
            highest: The highest.
            width: Between neighbouring values.
            pseudo_count: Of each value in each component, on average, before any data are seen: shared among values as
                all components have them, so that what one component never was is not impossible.
            noise: Standard deviation that is added to every direction of the normal values, so that none is flat.
        """
        flat, n_bins = data.flatten(1), _levels(lowest, highest, width)
        if len(flat) < 2:
            raise ValueError(f"marginals and correlations need at least two points; got {len(flat)}.")
        number("pseudo_count", pseudo_count, above=0.0)
        place = (flat.double() - lowest) / width  # [n, d]
        bins = place.round()
        wrong = ~((bins >= 0) & (bins < n_bins) & ((place - bins).abs() <= 1e-3))
        if bool(wrong.any()):
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"a copula takes the values from {lowest:g} to {highest:g} in steps of {width:g}; row {row}, counted "
                f"from 0, has {float(flat[row, column]):g}. Round the data, or take a StandardizedModel, which takes "
                "any values."
            )
        columns, index = torch.arange(flat.shape[1], device=flat.device), bins.long()
        counts = torch.bincount((columns * n_bins + index).flatten(), minlength=flat.shape[1] * n_bins)
        counts = counts.view(-1, n_bins).double()  # [d, bins]
        prior = (counts.sum(0) + 1) / (counts.sum() + n_bins)  # of all components together, none without mass
        masses = counts + pseudo_count * n_bins * prior
        masses = masses / masses.sum(1, keepdim=True)
        first, second = _moments(masses)
        expected, square = first[columns, index], second[columns, index]  # each [n, d]
        mean = expected.mean(0)
        centred = expected - mean
        covariance = centred.T @ centred / len(flat)
        covariance += (square.mean(0) - mean.square() - covariance.diagonal()).diag()  # what the noise adds
        values, vectors = torch.linalg.eigh(covariance)
        matrix = vectors * (values.clamp(min=0) + noise**2).sqrt()
        return cls(inner, mean.to(data.dtype).view(data.shape[1:]), matrix.to(data.dtype), masses,
                   lowest - 0.5 * width, width)  # fmt: skip

    def forward(self, x: Float[Tensor, " batch *event"], **model_kwargs: Tensor) -> Float[Tensor, " batch"]:
        transform = cast(CopulaTransform, self.transform)
        within = ((x >= transform.low) & (x <= transform.high)).flatten(1).all(1)
        return torch.where(within, super().forward(x, **model_kwargs), torch.inf)

    def _rebuild(self) -> None:
        low, high = self.ends.tolist()
        width = (high - low) / self.masses.shape[1]
        self.transform = CopulaTransform(self.mean, self.matrix, self.masses, low, width, self.inverse)


def _levels(lowest: float, highest: float, width: float) -> int:
    """How many values there are."""
    steps = (number("highest", highest, above=number("lowest", lowest)) - lowest) / number("width", width, above=0.0)
    if abs(steps - round(steps)) > 1e-3 or round(steps) < 1:
        raise ValueError(f"from {lowest:g} to {highest:g} there must be whole steps of width={width:g}; got {steps:g}.")
    return round(steps) + 1


def _moments(masses: Float[Tensor, "d bins"]) -> tuple[Float[Tensor, "d bins"], Float[Tensor, "d bins"]]:
    r"""$E[t \mid a < t < b]$ and $E[t^2 \mid a < t < b]$ of a normal t, for the quantiles a and b that end each bin."""
    below = torch.nn.functional.pad(masses.cumsum(1)[:, :-1], (1, 0))
    above = torch.nn.functional.pad(masses.flip(1).cumsum(1)[:, :-1], (1, 0)).flip(1)
    lower = torch.special.ndtri(below)  # -inf at the first bin
    upper = -torch.special.ndtri(above)  # +inf at the last

    def density(t: Tensor) -> Tensor:
        return torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)

    def weighted(t: Tensor) -> Tensor:
        return torch.where(t.isinf(), 0.0, t * density(t))

    first = (density(lower) - density(upper)) / masses
    second = 1 + (weighted(lower) - weighted(upper)) / masses
    return first, second
