"""Contrastive divergence, from the data or with persistent chains."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.energies import NonFiniteEnergyError, check_energies
from torchebm.core.first_generation import FirstGenerationContrastiveDivergence
from torchebm.core.loss import BaseLoss, LossOutput
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.random import randn
from torchebm.core.sampler import BaseSampler
from torchebm.core.schedulers import BaseScheduler

from .replay_buffer import FreshChains, ReplayBuffer

__all__ = ["ContrastiveDivergence"]


class ContrastiveDivergence(FirstGenerationContrastiveDivergence, BaseLoss):
    r"""Lowers the energy of data and raises that of the model's own samples: maximum likelihood, by sampling.

    $\nabla_\theta L = \langle \nabla_\theta E \rangle_\mathrm{data} - \langle \nabla_\theta E \rangle_\mathrm{model}$,
    the second mean over negatives, from `k_steps` transitions of the sampler. The chains start at the batch, or, if
    `persistent`, where they stopped at an earlier batch.

    Args:
        model: The energy to train.
        sampler: Draws the negatives, from the same model.
        k_steps: Transitions per update.
        persistent: Keep the chains in a replay buffer between updates. The first start at the first batch, as
            `fresh_chains` says: by default uniform in its box, widened by half.
        buffer_size: Chains in the buffer; at least the batch size.
        new_sample_ratio: Fraction of the persistent chains that begin anew at each update. Chains that have not mixed
            bias a density at temperature 1; recipes for short-run generators use 0.05.
        energy_reg_weight: Weight of $\langle E^2 \rangle$ over data and negatives, which keeps energies near zero: the
            loss leaves their level open.
        data_noise: Standard deviation of Gaussian noise added to each batch, a number or one a component; it gives data
            that lie on a grid or in a subspace a density to learn, namely that of the noisy data.
        fresh_chains: Where fresh chains begin: `"uniform"`, `"gaussian"` or `"data"`; see `ReplayBuffer`.
        reset_schedulers: Whether the sampler's schedules begin anew at each update, or run on through training.

    Returns:
        `loss, negatives = loss_fn(batch)`: a scalar, and detached samples `[batch, *event]`.

    Raises:
        NonFiniteEnergyError: If an energy is infinite or NaN, with the numbers. Nothing is replaced, and the buffer
            keeps its last good chains.
        ValueError: If the batch is empty, or data changed its shape.

    Note:
        Without `persistent`, short chains bias the estimate towards the data; with it the bias vanishes as the learning
        rate falls and the chains keep up. An update costs `k_steps` gradients of the batch.

    References: Hinton (2002), https://doi.org/10.1162/089976602760128018; Tieleman (2008),
    https://doi.org/10.1145/1390156.1390290

    Example:
        >>> from torchebm.core import EnergyModel
        >>> from torchebm.samplers import LangevinDynamics
        >>> model = EnergyModel(torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1)))
        >>> loss_fn = ContrastiveDivergence(model, LangevinDynamics(model), k_steps=5, persistent=True, buffer_size=256)
        >>> loss, negatives = loss_fn(torch.randn(64, 2))
        >>> loss.backward()
        >>> negatives.shape
        torch.Size([64, 2])
    """

    def __init__(self, model: BaseModel, sampler: BaseSampler, k_steps: int = 10, persistent: bool = False,
                 buffer_size: int = 10_000, new_sample_ratio: float = 0.0, energy_reg_weight: float = 0.001, *,
                 data_noise: float | Float[Tensor, "*event"] = 0.0, fresh_chains: FreshChains = "uniform",
                 reset_schedulers: bool = True) -> None:  # fmt: skip
        BaseLoss.__init__(self, model, sampler)
        if not isinstance(sampler, BaseSampler):
            raise TypeError(
                f"sampler must be a BaseSampler, such as LangevinDynamics(model); got {type(sampler).__name__}."
            )
        self.k_steps = integer("k_steps", k_steps, at_least=1)
        self.persistent = bool(persistent)
        self.new_sample_ratio = number("new_sample_ratio", new_sample_ratio, at_least=0.0, at_most=1.0)
        if self.new_sample_ratio and not self.persistent:
            raise ValueError("new_sample_ratio concerns persistent chains: give persistent=True with it.")
        self.energy_reg_weight = number("energy_reg_weight", energy_reg_weight, at_least=0.0)
        self.data_noise = (
            data_noise if isinstance(data_noise, Tensor) else number("data_noise", data_noise, at_least=0.0)
        )
        self.reset_schedulers = bool(reset_schedulers)
        replay_buffer = ReplayBuffer(buffer_size, fresh_chains)  # checks its arguments, wanted or not
        self.replay_buffer = replay_buffer if persistent else None
        self._uncommitted: tuple[Tensor | None, Tensor, list[tuple[BaseScheduler, int]]] | None = None
        self.last_negatives: Tensor | None = None
        """The negatives of the last evaluation, also of one that failed."""

    def evaluate(
        self, batch: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> LossOutput:
        self.check_batch(batch)
        self._uncommitted = None
        batch = batch.detach()
        if isinstance(self.data_noise, Tensor) or self.data_noise > 0:
            xi = randn(batch.shape, generator=generator, dtype=batch.dtype, device=batch.device)
            batch = batch + self.data_noise * xi
        slots, start = None, batch
        if self.replay_buffer is not None:
            slots, start = self.replay_buffer.draw(len(batch), batch, self.new_sample_ratio, generator=generator)
        negatives, metrics, counts = self._negatives(start, batch, generator)
        self.last_negatives = negatives
        energy_data, energy_negative = self.model(batch), self.model(negatives)  # each [batch]
        check_energies(data=energy_data, negatives=energy_negative)
        self._uncommitted = slots, negatives, counts
        gap = energy_negative.mean() - energy_data.mean()
        loss = -gap
        if self.energy_reg_weight > 0:  # squares overflow before energies do, and 0 * inf is no number
            level = 0.5 * (energy_data.square().mean() + energy_negative.square().mean())
            loss = loss + self.energy_reg_weight * level
        return LossOutput(
            loss=loss,
            metrics=metrics
            | {
                "energy_data": energy_data.detach().mean(),
                "energy_negative": energy_negative.detach().mean(),
                "energy_gap": gap.detach(),
                "energy_gap_error": _error_of_gap(energy_data.detach(), energy_negative.detach()),
            }
            | ({} if self.replay_buffer is None else {"buffer_age": self.replay_buffer.mean_age}),
            negatives=negatives,
        )

    def _negatives(
        self, start: Tensor, batch: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor], list[tuple[BaseScheduler, int]]]:
        """Runs the chains on from `start`; says how well they moved, and where schedules that run on have come to."""
        schedulers = [] if self.reset_schedulers else list(self.sampler.schedulers.values())
        before = [scheduler.step_count for scheduler in schedulers]
        try:
            negatives, metrics = self._sample(start, generator)
        except ValueError as error:
            self._check_starts(batch, start, error)
            raise
        counts = [(scheduler, scheduler.step_count) for scheduler in schedulers]
        for scheduler, count in zip(schedulers, before, strict=True):
            scheduler.step_count = count
        return negatives, metrics | {"displacement": (negatives - start).square().mean().sqrt()}, counts

    def _sample(self, start: Tensor, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        options = {
            "x": start,
            "n_steps": self.k_steps,
            "generator": generator,
            "reset_schedulers": self.reset_schedulers,
        }
        if type(self.sampler).sample is not MarkovSampler.sample:
            return self.sampler.sample(**options), {}
        run = self.sampler.run(**options, diagnostics=self.sampler.can_reject)
        rate = (run.diagnostics or {}).get("acceptance_rate")
        return run.x, {} if rate is None else {"acceptance_rate": rate.mean()}

    @torch.no_grad()
    def _check_starts(self, batch: Tensor, start: Tensor, error: ValueError) -> None:
        """Says it as the model's fault if a sampler refused chains because their energies are not finite."""
        try:
            check_energies(data=self.model(batch), starts=self.model(start))
        except NonFiniteEnergyError as cause:
            raise cause from error
        except (RuntimeError, TypeError, ValueError):
            return  # it was something else, of which the sampler's message tells

    @torch.no_grad()
    def survey(
        self, batch: Float[Tensor, " batch *event"], noise: Float[Tensor, " batch *event"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Energies of noise, the slope where the last negatives lie, and what lies at the edge of the sampler's box."""
        if self.last_negatives is None:
            return {}
        with evaluating(self.model):
            slope = self.model.gradient(self.last_negatives).flatten(1).norm(dim=1)
            figures = {"energy_noise": self.model(noise).mean(), "chain_gradient_norm": slope.mean()}
        box = getattr(self.sampler, "clamp", None)
        if box is not None:
            figures["saturation"] = self._share_at_edge(self.last_negatives, box)
            figures["saturation_data"] = self._share_at_edge(batch, box)
        return figures

    def _share_at_edge(self, x: Tensor, box: tuple[float, float]) -> Float[Tensor, ""]:
        """The share of components at a bound of the sampler's box, in the coordinates that it walks in."""
        _, transform = self.model.coordinates()
        z = x if transform is None else cast(Tensor, transform.inv(x))
        margin = 1e-4 * (box[1] - box[0])  # what a change of coordinates loses
        return ((z <= box[0] + margin) | (z >= box[1] - margin)).to(x.dtype).mean()

    def commit(self) -> None:
        """Writes the last negatives back to the slots that their chains came from; schedules that run on move on."""
        if self._uncommitted is None:
            return
        (slots, negatives, counts), self._uncommitted = self._uncommitted, None
        if slots is not None and self.replay_buffer is not None:
            self.replay_buffer.write(slots, negatives)
        for scheduler, count in counts:
            scheduler.step_count = count


def _error_of_gap(energy_data: Float[Tensor, " batch"], energy_negative: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The standard error that the gap of a batch has where data and negatives are independent draws."""
    variances = energy_data.var(correction=0) / len(energy_data)
    return (variances + energy_negative.var(correction=0) / len(energy_negative)).sqrt()
