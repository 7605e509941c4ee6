"""Points in the plane as a density: `toy-2d`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self, TypeVar, cast

from jaxtyping import Float
from torch import Tensor

from torchebm.core import BaseModel, HarmonicModel, StandardizedModel
from torchebm.datasets import Data
from torchebm.models import FourierEnergy
from torchebm.samplers import GlobalProposals, HamiltonianMonteCarlo

from ..guards import Guard, Line, Remedy, fluctuation_beyond, over
from .base import Kind
from .density import CosineSettings, DensityRecipe, HamiltonianSettings, PersistentSettings, StandardizedSettings
from .neighbours import neighbourhood

__all__ = ["PlanarSettings", "Toy2D", "WideSettings"]

Number = TypeVar("Number", int, float)

_MOST_PROPOSALS = 16  # where chains would need more, local moves go on by themselves


@dataclass(frozen=True)
class PlanarSettings(StandardizedSettings):
    r"""$E(x) = \tfrac12 |z|^2 + f(z, \sin Wz, \cos Wz)$ with a network f, in standardised coordinates z."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the network's layers."""
    n_frequencies: int = 64
    """Waves that the network sees."""
    lowest_frequency: float = 1.0
    """Of the waves, in radians per standard deviation of the data."""
    highest_frequency: float | None = None
    """The same; 0.15 over the scale of the neighbours if left out."""


@dataclass(frozen=True)
class WideSettings(HamiltonianSettings):
    """Proposals from the base, a little widened, and Hamiltonian Monte Carlo, at temperature 1."""

    n_steps: int = 100
    """Transitions from noise to a sample, after training."""
    step_size: float | None = None  # pyrefly: ignore[bad-override]
    """Leapfrog step, in standard deviations of the data; twice the scale of the neighbours if left out."""
    jitter: float = 0.8
    """Fraction by which the step varies from chain to chain, so that some fits wherever a chain is."""
    n_leapfrog_steps: int = 1
    """Gradients per transition."""
    proposal_scale: float = 1.2
    """Width of the global proposals, in standard deviations of the data."""
    n_proposals: int | None = None
    """Global proposals per transition; if left out, as many as it takes for a chain to jump at every fourth update."""
    denoise: bool = False
    """Whether samples are freed of the noise that was added to the data, by one step along the score."""


@dataclass(frozen=True)
class Toy2D(DensityRecipe):
    """Densities in the plane, fine structure and separate modes included, to within a few hundredths of a nat.

    What depends on the data is read off the distances between neighbours, in standardised coordinates: step size, waves
    and the number of proposals. So the units of the data do not matter.
    """

    name: ClassVar = "toy-2d"
    source: ClassVar = "ours"
    figures: ClassVar = (
        "two-dimensional benchmarks, 7,000 points, half a minute on one core, three seeds each: KL(truth || model) of "
        "0.01 to 0.03 nats, 0.06 for the checkerboard"
    )
    kinds: ClassVar[tuple[Kind, ...]] = ("planar",)

    model: PlanarSettings = PlanarSettings()
    sampler: WideSettings = WideSettings()
    loss: PersistentSettings = PersistentSettings(data_noise=0.0, k_steps=1, buffer_size=512, energy_reg_weight=0.0)
    training: CosineSettings = CosineSettings(
        n_steps=2000, batch_size=512, learning_rate=2e-3, warmup_steps=100, final_learning_rate=0.0, ema_decay=0.998,
        grad_clip_norm=10.0,
    )  # fmt: skip

    def fitted(self, data: Data) -> Self:
        new, model, sampler = super().fitted(data), self.model, self.sampler
        standardised = StandardizedModel.from_data(HarmonicModel(), data.x, self._least_width)
        z = cast(Tensor, standardised.transform.inv(data.x))
        seen = neighbourhood(z)
        scale = math.hypot(seen.scale, self.loss.data_noise)
        if model.highest_frequency is None:
            highest = max(model.lowest_frequency, 0.15 / scale)
            model = replace(model, highest_frequency=highest)
        if sampler.step_size is None:
            sampler = replace(sampler, step_size=2 * scale)
        if sampler.n_proposals is None:
            rate = math.exp(seen.entropy - _cross_entropy(z, sampler.proposal_scale))
            sampler = replace(sampler, n_proposals=min(_MOST_PROPOSALS, math.ceil(0.25 / rate)))
        return replace(new, model=model, sampler=sampler)

    def guards(self) -> tuple[Guard, ...]:
        """Those of every density, with a closer look at fluctuation until the run first goes back.

        A learning rate that is ten times too high does not diverge here. It ends two or three times as far from the
        truth, and shows once the chains have settled. A rate that is too low is worse still, so a fifth of it is left.
        """
        closer = (
            fluctuation_beyond(1.45, 500, name="lasting fluctuation"),
            Guard("slight fluctuation", _slight_fluctuation),
        )
        guards = *super().guards(), *(replace(guard, until_rollback=True) for guard in closer)
        return tuple(replace(guard, remedy=Remedy(learning_rate=0.2)) for guard in guards)

    @property
    def _least_width(self) -> float:
        """Of any direction of the data, in standard deviations, so that none is flat."""
        return max(self.loss.data_noise, 1e-3)

    def build_model(self, x: Float[Tensor, " n *event"]) -> StandardizedModel:
        inner = self.build_energy(x.shape[1:].numel())
        return StandardizedModel.from_data(inner, x, self._least_width, by=self.model.standardise_by)

    def build_energy(self, d: int) -> BaseModel:
        model = self.model
        frequencies = (model.lowest_frequency, _fitted(model.highest_frequency))
        return FourierEnergy(d, model.hidden, model.n_frequencies, frequencies) + HarmonicModel()

    def build_sampler(self, model: BaseModel) -> GlobalProposals:
        sampler = self.sampler
        local = HamiltonianMonteCarlo(
            model, _fitted(sampler.step_size), sampler.n_leapfrog_steps, jitter=sampler.jitter, path_jitter=0.0
        )
        return GlobalProposals(local, scale=sampler.proposal_scale, n_proposals=_fitted(sampler.n_proposals))


def _slight_fluctuation(lines: Sequence[Line]) -> str | None:
    """After a thousand updates, of which the first three hundred do not count: 1.02 to 1.16 at the right rate."""
    ratios = over(lines, "gap_fluctuation", 700) if lines[-1]["step"] >= 1000 else None
    if ratios is None:
        return None
    ratio = math.sqrt(sum(r * r for r in ratios) / len(ratios))
    if not ratio > 1.2:
        return None
    return (
        f"from update to update the energy gap has swung by {ratio:.3g} times its noise for 700 updates, after chains "
        "had time to settle: updates overshoot (take a smaller learning rate)"
    )


def _cross_entropy(z: Float[Tensor, "n d"], scale: float) -> float:
    """Of the data and a Gaussian around the origin, in nats."""
    return z.shape[1] * math.log(math.sqrt(2 * math.pi) * scale) + 0.5 * float(z.square().sum(1).mean()) / scale**2


def _fitted(value: Number | None) -> Number:
    if value is None:
        raise ValueError("the recipe does not know the scale of the data yet: take what recipe.fitted(data) returns.")
    return value
