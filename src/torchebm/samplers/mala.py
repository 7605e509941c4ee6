"""The Metropolis-adjusted Langevin algorithm."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.adaptation import Adaptation, Setting
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.sampler import SamplerOptions, Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import add_scaled, add_scaled_, per_chain, select, sum_event
from torchebm.core.target import Target

from .acceptance import AcceptInfo, Evaluated, accepts, proposal_noise, unsound
from .warmup import PreconditionerWarmup, check_target_acceptance, given, tunable

__all__ = ["MetropolisAdjustedLangevin"]


class MetropolisAdjustedLangevin(MarkovSampler):
    r"""Langevin steps with an accept test that removes their bias; the simplest exact sampler that uses the gradient.

    $x' = x - h C \nabla E(x) + \sqrt{2 h C}\,\xi$ with step size h, a diagonal preconditioner C and standard normal ξ,
    accepted with probability $\min(1, e^{E(x) - E(x')} q(x \mid x') / q(x' \mid x))$, where q is the density of the
    proposal. The choice where one gradient a step is all that can be paid; `HamiltonianMonteCarlo` moves further in
    many dimensions, `BarkerProposal` forgives a step size that is too large.

    Args:
        model: The energy.
        step_size: $h$, in units of $x^2$ (of $x^2 / C$ with a preconditioner); best where about 57 % of the proposals
            are accepted. It shrinks with the dimension d as $d^{-1/3}$.
        preconditioner: $C$, a tensor of the event's shape with positive entries, best near the variances of the
            components. Ones if left out, and then a warm-up (`n_warmup`, `warm_up`) puts the variances that it finds
            here.
        target_acceptance: The rate that a warm-up tunes $h$ to; `None` for one that tunes nothing. A step size that is
            on a schedule is not tuned.
        **options: `dtype`, `device`, `precision`.

    Note:
        Exact: $e^{-E}$ is invariant at any step size. One gradient a step. From far out in a light tail every proposal
        overshoots and is rejected: start nearer, or with a smaller step size.

    References: Roberts & Tweedie (1996), https://doi.org/10.2307/3318418; Roberts & Rosenthal (1998),
    https://doi.org/10.1111/1467-9868.00123

    Example:
        >>> from torchebm.core import GaussianModel
        >>> variances = torch.tensor([1.0, 100.0])
        >>> model = GaussianModel(torch.zeros(2), torch.diag(variances))
        >>> sampler = MetropolisAdjustedLangevin(model, step_size=0.5, preconditioner=variances)
        >>> x, diagnostics = sampler.sample(n_samples=50, n_steps=20, return_diagnostics=True)
        >>> bool(diagnostics["acceptance_rate"].mean() > 0.7)
        True
    """

    tuned_parameter = "step_size"

    steps_per_block = 8

    step_size = Scheduled(above=0.0)
    target_acceptance: Any = Setting(check_target_acceptance)

    def __init__(self, model: BaseModel | Callable[..., Tensor],
                 step_size: float | BaseScheduler | Callable[[int], float] = 0.1,
                 preconditioner: Float[Tensor, "*event"] | None = None, *,
                 target_acceptance: float | None = 0.574, **options: Unpack[SamplerOptions]) -> None:  # fmt: skip
        super().__init__(model, **options)
        self.step_size = step_size
        self.preconditioner = preconditioner
        self.target_acceptance = target_acceptance

    def adaptation(self, n_warmup: int) -> Adaptation | None:
        kind = "diagonal" if given(self, "preconditioner", self.preconditioner) is None else None
        return PreconditionerWarmup(self, n_warmup, kind) if tunable(self) else None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"preconditioner": self.preconditioner}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "preconditioner" not in state:
            raise ValueError(f"the saved state of another kind of sampler: {type(self).__name__} has a preconditioner.")
        super().load_state_dict(state)
        self.preconditioner = state["preconditioner"]

    @property
    def preconditioner(self) -> Tensor | None:
        """The preconditioner as it was given; what is derived from it follows when it changes."""
        return self._preconditioner

    @preconditioner.setter
    def preconditioner(self, preconditioner: Tensor | None) -> None:
        if preconditioner is not None:
            _check_diagonal(preconditioner)
            if preconditioner.is_inference():
                with torch.inference_mode(False):  # a copy that counts its versions
                    preconditioner = preconditioner.clone()
        self._preconditioner = preconditioner
        self._diagonal: tuple[object, tuple[Tensor, Tensor]] | None = None

    def diagonal(self, x: Float[Tensor, " chain *event"]) -> tuple[float | Tensor, float | Tensor]:
        """C and its root for chains like `x`; checked once for each preconditioner, event shape, dtype and device."""
        given = self._preconditioner
        if given is None:
            return 1.0, 1.0
        if torch.compiler.is_compiling() and self._diagonal is not None:  # `prepare` has looked what became of it
            return self._diagonal[1]
        key = (given._version, x.shape[1:], x.dtype, x.device)
        if self._diagonal is None or self._diagonal[0] != key:
            if given.shape != x.shape[1:]:
                raise ValueError(
                    f"preconditioner has shape {list(given.shape)}; expected {list(x.shape[1:])}, one number for each "
                    f"component of a point, because x has shape {list(x.shape)} = [chain, *event]."
                )
            if given.device.type != x.device.type:
                raise ValueError(
                    f"the preconditioner is on {given.device}, the chains on {x.device}: move one of them."
                )
            _check_diagonal(given)  # it may have been changed in place
            c = given.to(x.dtype)
            self._diagonal = (key, (c.clone(), c.sqrt()))
        return self._diagonal[1]

    def prepare(self, x: Float[Tensor, " chain *event"]) -> None:
        self.diagonal(x)

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Evaluated:
        self.diagonal(x)  # a preconditioner that does not fit is refused before the first step
        return Evaluated(x, *target(x))

    def refresh(self, state: Evaluated, target: Target) -> Evaluated:
        return Evaluated(state.x, *target(state.x))

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, Tensor]:
        return proposal_noise(x, n)

    def step(self, state: Evaluated, noise: tuple[Tensor, Tensor], target: Target, *, temperature: float | Tensor = 1.0,
             step_size: float | Tensor) -> tuple[Evaluated, AcceptInfo]:  # fmt: skip
        xi, u = noise
        c, root = self.diagonal(xi)
        h, drift = per_chain(step_size, xi), per_chain(step_size / temperature, xi)
        x = add_scaled_(add_scaled(state.x, -drift, c * state.gradient), (2 * h) ** 0.5, root * xi)
        new = Evaluated(x, *target(x))
        # log q(x | x') - log q(x' | x), in a form without division by h or C that changes its sign, to the last bit,
        # when x and x' change places
        move = x.to(u.dtype) - state.x.to(u.dtype)
        here, there = state.gradient.to(u.dtype), new.gradient.to(u.dtype)
        correction = sum_event((here + there) * (0.5 * move - 0.25 * drift * c * (there - here)))
        log_ratio = (((state.energy - new.energy) + correction) / temperature).to(u.dtype)
        accepted, rate = accepts(log_ratio, u, state.energy, new.energy)
        return select(accepted, new, state), AcceptInfo(rate, unsound(log_ratio, state.energy, new.energy))


def _check_diagonal(preconditioner: Tensor) -> None:
    if not isinstance(preconditioner, Tensor):
        raise TypeError(
            "preconditioner must be a tensor of the event's shape, such as the variances of the components; got "
            f"{type(preconditioner).__name__}."
        )
    if preconditioner.is_complex() or preconditioner.dtype == torch.bool:
        raise TypeError(f"preconditioner must hold real numbers; got {preconditioner.dtype}.")
    if not bool((preconditioner.isfinite() & (preconditioner > 0)).all()):
        raise ValueError("preconditioner must be positive and finite in every entry.")
