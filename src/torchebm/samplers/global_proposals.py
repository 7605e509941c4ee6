"""Proposals that forget where a chain is, beside a sampler that moves it nearby."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.checks import integer, number
from torchebm.core.closed_form import check_tensor
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.random import normal_, uniform_
from torchebm.core.sampler import Scheduled
from torchebm.core.shapes import sum_event
from torchebm.core.target import Target

from .acceptance import accepts, unsound
from .outer import OuterSampler
from .tempering import ParallelTempering

__all__ = ["GlobalProposals"]


class GlobalInfo(NamedTuple):
    """What a transition reports: what the inner sampler does, and how often global proposals are accepted."""

    local: Any
    """The inner sampler's info."""
    global_acceptance_rate: Float[Tensor, " chain"]
    """Probability with which a global proposal was accepted, in the mean over those of the transition."""
    unsound: Bool[Tensor, " chain"]
    """Whether a global proposal met what no density has; told where the inner sampler has an accept test, too."""

    @property
    def diverging(self) -> Bool[Tensor, " chain"]:
        """Whether the local transition diverged, or a global proposal met what no density has."""
        return self.local.diverging | self.unsound

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.local, name)  # where there are such: acceptance_rate, n_steps, tree_depth


class GlobalProposals(OuterSampler):
    r"""Lets chains jump anywhere before each local move; the choice for separate modes in few dimensions.

    $x' = m + s\,\xi$, wherever the chain is, accepted with probability
    $\min\bigl(1, e^{E(x) - E(x')}\, q(x) / q(x')\bigr)$ with q the density of $N(m, s^2 I)$; then one transition of the
    inner sampler. Chains cross between modes without walking there, and mass far from all data is found as soon as
    there is any. Where the energy has a Gaussian base, as $\tfrac12 |x|^2 + f(x)$, that base is the natural proposal,
    a little widened.

    Args:
        model: The energy, or a sampler of any kind that moves the chains locally.
        inner: The class of the inner sampler, where `model` is an energy; `HamiltonianMonteCarlo` if left out.
        mean: $m$, a tensor of the event's shape, in the coordinates that the sampler walks in; the origin if left out.
        scale: $s$, in the same: wide enough to reach wherever there is mass, with some to spare.
        n_proposals: Global proposals in a transition; about one over the rate at which they are accepted is plenty.
        **options: For the inner sampler: its parameters, and `dtype`, `device`, `precision`.

    Attributes:
        inner: The inner sampler; its parameters are set there.

    Note:
        As exact as the inner sampler: global proposals leave $e^{-E}$ invariant, whatever m and s are. In d dimensions
        they are accepted about as often as $e^{-KL}$ with the divergence of the density from $N(m, s^2 I)$, which grows
        with d: beyond five or so dimensions prefer `ParallelTempering`. A chain with far more mass than q gives it
        stays for long: s should be too wide rather than too narrow. One transition costs one of the inner sampler, an
        energy a proposal, and one gradient; samplers that keep no energies, such as `LangevinDynamics`, need one
        energy more. Diagnostics have `global_acceptance_rate` besides those of the inner sampler. A warm-up tunes the
        inner sampler.

    References: for independent proposals Tierney (1994), https://doi.org/10.1214/aos/1176325750; beside local ones
    Samsonov et al. (2022), https://arxiv.org/abs/2111.02702

    Example:
        >>> from torchebm.core import GaussianMixtureModel
        >>> model = GaussianMixtureModel(means=[[-4.0], [4.0]], scales=0.5)
        >>> sampler = GlobalProposals(model, step_size=0.3, n_leapfrog_steps=3, scale=5.0, n_proposals=4)
        >>> x = sampler.sample(torch.full((500, 1), 4.0), n_steps=50, generator=torch.Generator().manual_seed(0))
        >>> bool(((x > 0).float().mean() - 0.5).abs() < 0.1)
        True
    """

    step_size = Scheduled(above=0.0)
    """Of the inner sampler, if it has one."""
    mean: Any = Setting(lambda value: _check_mean(value))
    scale: Any = Setting(lambda value: number("scale", value, above=0.0))
    n_proposals: Any = Setting(lambda value: integer("n_proposals", value, at_least=1))

    def __init__(self, model: MarkovSampler | BaseModel | Callable[..., Tensor], *,
                 inner: type[MarkovSampler] | None = None, mean: Float[Tensor, "*event"] | None = None,
                 scale: float = 1.0, n_proposals: int = 1, **options: Any) -> None:  # fmt: skip
        super().__init__(model, inner, **options)
        if isinstance(self.inner, ParallelTempering):
            raise TypeError(
                "global proposals would move the cold replica alone: put them into the replicas instead, "
                "ParallelTempering(GlobalProposals(...))."
            )
        self.mean, self.scale, self.n_proposals = mean, scale, n_proposals

    # what is kept -----------------------------------------------------------------------------------------------------

    def parameter_table(self, start: int, n_steps: int) -> dict[str, list[Any]]:
        return self.inner.parameter_table(start, n_steps)

    def state_dict(self) -> dict[str, Any]:
        """What the inner sampler keeps, and the proposals."""
        inner = self.inner.state_dict()
        own = {"mean": self.mean, "scale": self.scale, "n_proposals": self.n_proposals}
        return inner | own | {"sampler": type(self).__name__, "inner_sampler": inner["sampler"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        inner, own = dict(state), ("mean", "scale", "n_proposals", "inner_sampler")
        if state.get("sampler") != type(self).__name__ or not set(own) <= set(inner):
            raise ValueError(
                f"the saved state of another kind of sampler: {type(self).__name__} has n_proposals, the state only "
                f"{', '.join(sorted(inner))}."
            )
        mean, scale, n_proposals, inner["sampler"] = (inner.pop(name) for name in own)
        self.inner.load_state_dict(inner)
        self.mean, self.scale, self.n_proposals = mean, scale, n_proposals

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        return self.inner.adaptation(n_warmup)

    @property
    def tuning(self) -> dict[str, Any] | None:  # pyrefly: ignore[bad-override]
        """What the last warm-up found for the inner sampler."""
        return self.inner.tuning

    # the kernel -------------------------------------------------------------------------------------------------------

    def whole(self, target: Target) -> Target:
        return self.inner.whole(target)

    def energy(self, state: Any, target: Target) -> Float[Tensor, " chain"]:
        return self.inner.energy(state, target)

    def prepare(self, x: Float[Tensor, " chain *event"]) -> None:
        self.inner.prepare(x)

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Any:
        if self.mean is not None and self.mean.shape != x.shape[1:]:
            raise ValueError(
                f"mean has shape {list(self.mean.shape)}; expected {list(x.shape[1:])}, one number for each component "
                f"of a point, because x has shape {list(x.shape)} = [chain, *event]."
            )
        return self.inner.init(x, target, generator)

    def refresh(self, state: Any, target: Target) -> Any:
        return self.inner.refresh(state, target)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """A point and a uniform for each global proposal; and that of the inner sampler."""
        z = x.new_empty(n, len(x), self.n_proposals, *x.shape[1:])
        u = x.new_empty(n, len(x), self.n_proposals, dtype=torch.promote_types(x.dtype, torch.float32))
        return z, u, *self.inner.noise(x, n)

    def draw(self, out: tuple[Tensor, ...], generator: torch.Generator | None) -> None:
        normal_(out[0], generator)
        uniform_(out[1], generator)
        self.inner.draw(out[2:], generator)

    def step(self, state: Any, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             **parameters: Any) -> tuple[Any, GlobalInfo]:  # fmt: skip
        z, u, *inner_noise = noise
        whole = self.inner.whole(target)
        mean = 0.0 if self.mean is None else self.mean.to(z)
        x, energy, rates = state.x, self.inner.energy(state, target), []
        wrong = torch.zeros_like(energy, dtype=torch.bool)
        half_square = 0.5 * sum_event(((x - mean) / self.scale).to(u.dtype).square())  # -log q(x), and a constant
        for xi, each_u in zip(z.unbind(1), u.unbind(1), strict=True):
            there = mean + self.scale * xi
            energy_there, half_square_there = whole.energy(there), 0.5 * sum_event(xi.to(u.dtype).square())
            log_ratio = ((energy - energy_there) / temperature).to(u.dtype) + (half_square_there - half_square)
            accepted, rate = accepts(log_ratio, each_u, energy, energy_there)
            rates.append(rate)
            if self.can_reject:
                wrong = wrong | unsound(log_ratio, energy, energy_there)
            x = torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), there, x)
            energy = torch.where(accepted, energy_there, energy)
            half_square = torch.where(accepted, half_square_there, half_square)
        state = self.inner.refresh(state._replace(x=x), target)
        moved, info = self.inner.step(state, tuple(inner_noise), target, temperature=temperature, **parameters)
        return moved, GlobalInfo(info, torch.stack(rates).mean(0), wrong)


def _check_mean(mean: object) -> Tensor | None:
    if mean is not None and not isinstance(mean, Tensor):
        raise TypeError(f"mean must be a tensor of the event's shape; got {type(mean).__name__}.")
    return None if mean is None else check_tensor("mean", mean, "of the event's shape", [mean.ndim])
