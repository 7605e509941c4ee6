"""Energies of data at a sequence of noise levels, each learned by undoing one level of noise."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.energies import check_energies
from torchebm.core.loss import BaseLoss, LossOutput
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.progress import progress_bar
from torchebm.core.random import randint, randn
from torchebm.core.sampler import BaseSampler
from torchebm.core.shapes import per_chain, sum_event
from torchebm.core.target import Target
from torchebm.samplers import LangevinDynamics

__all__ = ["NoiseLevels", "RecoveryLikelihood", "recover"]


class NoiseLevels(NamedTuple):
    r"""How data become noise, level by level: $x_0 = \alpha_0 x + \sigma_0 \xi$, and on with
    $x_{t+1} = \alpha_{t+1} x_t + \sigma_{t+1} \xi$, where $\sigma_t^2 = 1 - \alpha_t^2$."""

    signal: Float[Tensor, " level"]
    r"""$\alpha_0 \dots \alpha_T$: T levels are learned, and the last of all is taken for noise."""

    @classmethod
    def of(cls, signal: Sequence[float]) -> "NoiseLevels":
        """Levels with the given factors, each between 0 and 1."""
        if len(signal) < 2:
            raise ValueError(f"at least two factors are needed, of the data and of one level; got {len(signal)}.")
        return cls(torch.tensor([number("each factor", s, above=0.0, at_most=1.0) for s in signal]))

    @classmethod
    def linear(cls, n_levels: int, first: float = 1e-4, last: float = 0.02, n_fine: int = 1000) -> "NoiseLevels":
        r"""`n_levels` levels out of the linear schedule of a diffusion with `n_fine` small ones.

        As in the source: most of them in its first half, where there is most to be undone, and the rest in one stride.
        """
        n_levels = integer("n_levels", n_levels, at_least=2)
        beta = torch.linspace(first, last, n_fine, dtype=torch.float64)
        log_signal = 0.5 * torch.log1p(-beta).cumsum(0)  # of all small levels up to each
        at = torch.cat([torch.arange(n_levels) * (n_fine // (2 * (n_levels - 1))), torch.tensor([n_fine - 1])])
        steps = torch.diff(log_signal[at], prepend=log_signal.new_zeros(1))
        return cls(steps.exp().to(torch.get_default_dtype()))

    @property
    def n_levels(self) -> int:
        """Levels that are learned."""
        return len(self.signal) - 1

    @property
    def noise(self) -> Float[Tensor, " level"]:
        r"""$\sigma_t$."""
        return (1 - self.signal.double().square()).sqrt().to(self.signal.dtype)

    @property
    def total_signal(self) -> Float[Tensor, " level"]:
        """The factor of the data in level t, all levels before it included."""
        return self.signal.double().cumprod(0).to(self.signal.dtype)

    @property
    def total_noise(self) -> Float[Tensor, " level"]:
        """The standard deviation of the noise in level t, of all levels before it included."""
        return (1 - self.signal.double().cumprod(0).square()).sqrt().to(self.signal.dtype)


class Conditional(BaseModel):
    r"""The energy of a level given the noisier one: $E(y \mid \tilde x) = U(y, t) / 2 h_t + |y - \tilde x|^2 / 2
    \sigma_{t+1}^2$, without the second term at the last level, whose noisier one is noise."""

    def __init__(self, model: BaseModel, conditional: bool) -> None:
        super().__init__()
        self.inner, self.conditional = model, conditional

    def forward(self, y: Float[Tensor, " batch *event"], **given: Tensor) -> Float[Tensor, " batch"]:
        level = {"level": given["level"]} if self.conditional else {}
        distance = 0.5 * given["precision"] * sum_event((y - given["noisy"]).square())
        return self.inner(y, **level) / (2 * given["step_size"]) + distance


class RecoveryLikelihood(BaseLoss):
    r"""Learns an energy at each of a sequence of noise levels, by the likelihood of data given their noisier version.

    $\nabla L = \langle \nabla U(y_t, t) \rangle_\mathrm{data} - \langle \nabla U(\tilde y_t, t) \rangle$, weighted by
    $\sigma_1 / \sigma_{t+1}$, with $\tilde y_t$ from `k_steps` Langevin steps on $E(y \mid x_{t+1})$ from $x_{t+1}$

    What is left of a point when one level of noise is known lies close to the noisier point and has one mode, so short
    chains reach it, where the data themselves have many. $y_t = \alpha_{t+1} x_t$ are the scaled points, U is the
    model, and the energy at level t is $U / 2 h_t$, of which the chains are at the sampler's temperature.

    Args:
        model: U, called with `level=` t for each point, `[batch]`, from 0, hardly any noise, to `levels.n_levels - 1`.
        sampler: `LangevinDynamics` of the same model. Its step size counts in units of each level, see Note.
        levels: The noise.
        k_steps: Transitions per update.
        conditional: Whether the model is told the level; otherwise one energy is learned for all of them.

    Note:
        The step at level t is $h_t = h \, \sigma_{t+1}^2 \, s_t / s_0$, where $s_t$ is all noise up to level t. An
        update costs `k_steps` gradients. `recover` draws samples, from noise through all levels.

    References: Gao et al. (2021), Learning energy-based models by diffusion recovery likelihood,
    https://arxiv.org/abs/2012.08125

    Example:
        >>> from torchebm.models import MLPEnergy
        >>> model = MLPEnergy(2, [16])
        >>> sampler = LangevinDynamics(model, step_size=1e-4)
        >>> loss_fn = RecoveryLikelihood(model, sampler, NoiseLevels.linear(6), k_steps=5, conditional=False)
        >>> loss, negatives = loss_fn(torch.randn(64, 2))
        >>> negatives.shape
        torch.Size([64, 2])
    """

    def __init__(self, model: BaseModel, sampler: BaseSampler, levels: NoiseLevels, k_steps: int = 30, *,
                 conditional: bool = True) -> None:  # fmt: skip
        super().__init__(model, sampler)
        check_sampler(sampler)
        if not isinstance(levels, NoiseLevels):
            raise TypeError(f"levels must be NoiseLevels, such as NoiseLevels.linear(6); got {type(levels).__name__}.")
        self.levels = levels
        self.k_steps = integer("k_steps", k_steps, at_least=1)
        self.conditional = bool(conditional)

    def evaluate(
        self, batch: Float[Tensor, " batch *event"], *, generator: torch.Generator | None = None
    ) -> LossOutput:
        self.check_batch(batch)
        x, n = batch.detach(), len(batch)
        level = randint(self.levels.n_levels, (n,), generator=generator, device=x.device)
        y, noisy = self.pairs(x, level, generator)
        told = {"level": level} if self.conditional else {}
        energy_data = self.model(y, **told)
        check_energies(data=energy_data)  # before chains meet such energies
        negatives = undone(self.model, self.sampler, self.levels, noisy, level, self.k_steps, self.conditional,
                           generator)  # fmt: skip
        energy_negative = self.model(negatives, **told)
        check_energies(data=energy_data, negatives=energy_negative)
        noise = self.levels.noise.to(x)
        weight = noise[1] / noise[level + 1]
        gap = (weight * (energy_negative - energy_data)).mean()
        moved = (negatives - noisy).square().mean().sqrt()
        metrics = {"energy_data": energy_data, "energy_negative": energy_negative, "energy_gap": gap}
        metrics = {name: figure.detach().mean() for name, figure in metrics.items()}
        return LossOutput(loss=-gap, metrics=metrics | {"displacement": moved}, negatives=negatives)

    def pairs(
        self, x: Float[Tensor, " batch *event"], level: Int[Tensor, " batch"], generator: torch.Generator | None
    ) -> tuple[Float[Tensor, " batch *event"], Float[Tensor, " batch *event"]]:
        r"""$y_t = \alpha_{t+1} x_t$ and $x_{t+1}$ of data; at the last level $x_t$ itself, and noise."""
        first, second = (randn(x.shape, generator=generator, dtype=x.dtype, device=x.device) for _ in range(2))
        levels = self.levels
        signal, noise = (per_chain(t.to(x)[level], x) for t in (levels.total_signal, levels.total_noise))
        now = signal * x + noise * first
        y = per_chain(_onward(levels).to(x)[level], x) * now
        noisy = (
            per_chain(levels.signal.to(x)[level + 1], x) * now + per_chain(levels.noise.to(x)[level + 1], x) * second
        )
        last = per_chain((level == levels.n_levels - 1).to(x.dtype), x)
        return y, (1 - last) * noisy + last * second


def recover(model: BaseModel, sampler: BaseSampler, levels: NoiseLevels, noise: Float[Tensor, " n *event"],
            k_steps: int = 30, *, conditional: bool = True, generator: torch.Generator | None = None,
            progress: bool = False) -> Float[Tensor, " n *event"]:  # fmt: skip
    """Samples from noise, through all levels down to the one with hardly any.

    Args:
        model: As trained by `RecoveryLikelihood`.
        sampler: The same.
        levels: The same.
        noise: Standard normal draws, one a sample.
        k_steps: Transitions at each level.
        conditional: Whether the model is told the level.
        generator: Source of randomness.
        progress: Show a progress bar.
    """
    check_sampler(sampler)
    x = noise
    with progress_bar(progress, levels.n_levels, "levels") as tick:
        for t in range(levels.n_levels - 1, -1, -1):
            level = torch.full((len(x),), t, device=x.device)
            x = undone(model, sampler, levels, x, level, k_steps, conditional, generator) / _onward(levels)[t].to(x)
            tick()
    return x


@torch.no_grad()
def undone(model: BaseModel, sampler: Any, levels: NoiseLevels, noisy: Float[Tensor, " n *event"],
           level: Int[Tensor, " n"], k_steps: int, conditional: bool,
           generator: torch.Generator | None) -> Float[Tensor, " n *event"]:  # fmt: skip
    """Chains on the conditional energy, from the noisier points: scaled points $y_t$ of each chain's level."""
    noise, total = levels.noise.to(noisy), levels.total_noise.to(noisy)
    step_size = sampler.step_size * noise[level + 1].square() * total[level] / total[0]  # [n]
    precision = torch.where(level == levels.n_levels - 1, 0.0, noise[level + 1].square().reciprocal())
    given = {"level": level, "noisy": noisy, "step_size": step_size, "precision": precision}
    target = Target(Conditional(model, conditional), given, sampler.precision)
    parameters: Any = {name: values * k_steps for name, values in sampler.parameter_table(0, 1).items()}
    parameters["step_size"] = [step_size] * k_steps
    with evaluating(model):
        state = sampler.init(noisy.clone(), target, generator)
        return sampler.advance(state, 0, k_steps, target=target, generator=generator, parameters=parameters).x


def check_sampler(sampler: object) -> None:
    """Refuses a sampler whose step size cannot differ from chain to chain."""
    if not isinstance(sampler, LangevinDynamics):
        raise TypeError(f"recovery likelihood runs on LangevinDynamics; got {type(sampler).__name__}.")


def _onward(levels: NoiseLevels) -> Float[Tensor, " level"]:
    """The factor from each level to the next, 1 for the last."""
    return torch.cat([levels.signal[1:-1], levels.signal.new_ones(1)])
