"""Log-likelihood of data under a model, with what is uncertain about it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.checks import integer, number
from torchebm.core.model import BaseModel, as_model, check_energy, evaluating

from .estimates import LogZ
from .normalizer import log_z as estimate_log_z
from .tails import check_tails as check_tails_of

__all__ = ["Likelihood", "log_likelihood"]

_Z = 1.959963984540054  # the 97.5 % quantile of the normal density


@dataclass(frozen=True, eq=False)
class Likelihood:
    """A mean log-likelihood in nats a point; printing it shows all that is known of it."""

    mean: float
    standard_error: float
    """Of the mean over points: what other points of the same kind would change."""
    log_z: LogZ
    """The normaliser that was used, whose error is the same for every point."""
    log_density: Float[Tensor, " n"]
    """Of each point, float64."""
    dim: int
    """Entries of a point."""
    bin_width: float | None = None
    """Of dequantised data; bits are known only with it."""

    @property
    def normalizer_interval(self) -> tuple[float, float]:
        """95 %, of the normaliser's error alone."""
        middle, (low, high) = self.log_z.estimate, self.log_z.interval
        return self.mean - (high - middle), self.mean + (middle - low)

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of both errors together."""
        low, high = self.normalizer_interval
        data = _Z * self.standard_error
        return self.mean - math.hypot(self.mean - low, data), self.mean + math.hypot(high - self.mean, data)

    @property
    def bits_per_dim(self) -> float | None:
        r"""$-(\text{mean} + d \log \delta) / (d \log 2)$ with bins of width δ; `None` if no width was given."""
        return None if self.bin_width is None else self._bits(self.mean)

    @property
    def bits_per_dim_interval(self) -> tuple[float, float] | None:
        """95 %, of both errors together."""
        return None if self.bin_width is None else (self._bits(self.interval[1]), self._bits(self.interval[0]))

    def _bits(self, nats: float) -> float:
        return -(nats / self.dim + math.log(self.bin_width or 1.0)) / math.log(2)

    def as_dict(self) -> dict[str, Any]:
        """The figures, in plain numbers and lists."""
        bits = self.bits_per_dim_interval
        return {
            "mean": self.mean, "standard_error": self.standard_error, "interval": list(self.interval),
            "normalizer_interval": list(self.normalizer_interval), "n": len(self.log_density), "dim": self.dim,
            "bits_per_dim": self.bits_per_dim, "bits_per_dim_interval": None if bits is None else list(bits),
            "bin_width": self.bin_width, "log_z": self.log_z.as_dict(),
        }  # fmt: skip

    def __str__(self) -> str:
        low, high = self.normalizer_interval
        lines = [
            f"log-likelihood {self.mean:.3f} nats a point [{self.interval[0]:.3f}, {self.interval[1]:.3f}]",
            f"  of the data        standard error {self.standard_error:.3f}, {len(self.log_density)} points",
            f"  of the normaliser  [{low:.3f}, {high:.3f}]",
        ]
        if (bits := self.bits_per_dim_interval) is not None:
            lines.append(f"  {self.bits_per_dim:.4f} bits per dimension [{bits[0]:.4f}, {bits[1]:.4f}]")
        return "\n".join([*lines, *("  " + line for line in str(self.log_z).splitlines())])


def log_likelihood(model: BaseModel | nn.Module, x: Float[Tensor, " n *event"], log_z: LogZ | float | None = None, *,
                   bin_width: float | None = None, check_tails: bool = True, batch_size: int | None = None,
                   generator: torch.Generator | None = None, **options: Any) -> Likelihood:  # fmt: skip
    r"""Mean log-likelihood of data, $\tfrac1n \sum_i -E(x_i) - \log Z$, with its interval.

    Args:
        model: The energy.
        x: Data that the model was not trained on, in their own units.
        log_z: What `log_z` returned, or a number that is known to be exact. Left out, it is estimated now, by annealed
            importance sampling from a Gaussian fitted to `x`.
        bin_width: Of dequantised data, such as 1/256 for bytes scaled to [0, 1): width of the bin that noise was added
            in. Bits per dimension are then those that it takes to code the whole values; see the note.
        check_tails: Whether to refuse energies that do not confine the density; `log_z` was then not checked either.
        batch_size: Points at a time, and particles.
        generator: Source of randomness.
        **options: For `log_z`: `n_particles`, `samples`, `base`, `progress`, ...

    Raises:
        UnboundedEnergyError: If the model has no normaliser.
        ValueError: If points have no density (the log-likelihood is minus infinity), or data are said to be dequantised
            and are not.

    Note: a density of whole values can be made as large as one likes, by spikes on them, and its bits depend on the
        units. Bits per dimension mean something for dequantised data: uniform noise of one bin's width is added to
        every value; then $-\log_2 p(x) \delta^d$ is at least the code length of the whole values, in expectation. An
        AIS estimate of log Z is too small in expectation, which makes a likelihood too large: mind the upper bound.

    References: Theis, van den Oord & Bethge (2016), https://arxiv.org/abs/1511.01844

    Example:
        >>> from torchebm.core import GaussianModel
        >>> model = GaussianModel(torch.zeros(2), torch.eye(2))
        >>> x = model.sample(1000, generator=torch.Generator().manual_seed(0))
        >>> found = log_likelihood(model, x, log_z=model.log_z)
        >>> abs(found.mean + 1 + math.log(2 * math.pi)) < 0.1
        True
    """
    model = as_model(model)
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) < 2:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must hold two points or more, [n, *event], of which the scatter is the error; got {got}.")
    dim = x[0].numel()
    if bin_width is not None:
        bin_width = number("bin_width", bin_width, above=0.0)
        _check_dequantised(x, bin_width)
    if log_z is None:
        near: dict[str, Any] = {} if {"data", "base", "samples", "trajectory"} & set(options) else {"data": x}
        log_z = estimate_log_z(model, check_tails=check_tails, batch_size=batch_size, generator=generator,
                               **{**near, **options})  # fmt: skip
    else:
        if options:
            raise TypeError(f"log_z is given, so {', '.join(options)} would have no effect: leave them out.")
        if check_tails and not (isinstance(log_z, LogZ) and log_z.box is not None):
            check_tails_of(model, x, generator=generator)
        if not isinstance(log_z, LogZ):
            exact = number("log_z", log_z)
            log_z = LogZ(exact, (exact, exact), "what was given, taken to be exact")
    if log_z.box is not None:
        at = x.reshape(len(x), *log_z.box.low.shape).to(log_z.box.low.device)
        outside = int((log_z.box(at) == torch.inf).sum())
        if outside:
            raise ValueError(f"{outside} of {len(x)} points lie outside of the box that log Z is of: widen it.")
    size = len(x) if batch_size is None else integer("batch_size", batch_size, at_least=1)
    with torch.no_grad(), evaluating(model):
        energies = []
        for some in x.split(size):
            energies.append(model(some))
            check_energy(energies[-1], some)
    energy = torch.cat(energies).double()
    bad = int((energy.isnan() | (energy == -torch.inf)).sum())
    if bad:
        raise ValueError(f"the energy is NaN or -inf at {bad} of {len(x)} points.")
    none = int((energy == torch.inf).sum())
    if none:
        raise ValueError(
            f"the model has no density at {none} of {len(x)} points, so that the log-likelihood is minus infinity: "
            "they lie outside its support. Check the units, and the box if there is one."
        )
    density = -energy - log_z.estimate
    error = float(density.std()) / math.sqrt(len(x))
    return Likelihood(float(density.mean()), error, log_z, density, dim, bin_width)


def _check_dequantised(x: Tensor, width: float) -> None:
    """Refuses data of which most values lie on one lattice with steps of a bin's width: nothing was added to them."""
    place = x.double().flatten() / width
    if x.dtype.itemsize < 4:
        raise ValueError(f"x is {x.dtype}, too coarse for dequantised data: convert it to float32 before adding noise.")
    offset = place - place[0]
    resolution = 4 * torch.finfo(x.dtype).eps * place.abs().clamp(min=1)
    on_lattice = ((offset - offset.round()).abs() <= resolution).double().mean()
    if float(on_lattice) > 0.5:
        raise ValueError(
            f"{float(on_lattice):.0%} of the values are multiples of bin_width={width:g}, up to an offset: they are "
            "not dequantised, and bits per dimension would mean nothing. Add uniform noise of one bin's width: "
            "x + bin_width * torch.rand_like(x)."
        )
