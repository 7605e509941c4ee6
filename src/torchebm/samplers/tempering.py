"""Parallel tempering."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation
from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel
from torchebm.core.random import uniform_
from torchebm.core.sampler import Scheduled
from torchebm.core.shapes import per_chain
from torchebm.core.target import Target

from .ladder import LadderTuning
from .outer import OuterSampler
from .replicas import ReplicaTarget, each_leaf, flat, partners, repeat, swaps, tempered

__all__ = ["ParallelTempering"]

TOWARDS_HOT, TOWARDS_COLD = 1, 2  # which end a replica saw last; 0 until it has been at the cold one


class SwapInfo(NamedTuple):
    """What a transition reports: of the cold replica what the inner sampler does, and the swaps of all."""

    cold: Any
    """The inner sampler's info of the replica at temperature 1."""
    lost: Bool[Tensor, " chain"]
    """Whether the energy of some replica is not finite."""
    swap_rate: Float[Tensor, " chain pair"]
    """Probability with which neighbours were swapped; NaN where it was not their turn."""
    round_trips: Int[Tensor, " chain"]
    """Replicas that came back to the cold end, with this transition, from the hot one, for which they had left it."""

    @property
    def diverging(self) -> Bool[Tensor, " chain"]:
        """Whether the transition of the cold replica diverged, or a replica is lost."""
        return self.cold.diverging | self.lost

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.cold, name)  # acceptance_rate, and where there are such n_steps and tree_depth


class ParallelTempering(OuterSampler):
    r"""Runs replicas of each chain at rising temperatures and swaps neighbours; the choice for modes far apart.

    Replica i has the density $e^{-E / T_i}$, $1 = T_0 < T_1 < \dots$: the hot ones cross barriers, and swaps take what
    they find down to the cold one, which is the chain that is returned. After each transition of all replicas,
    neighbours are swapped with probability $\min(1, e^{(1/T_i - 1/T_j)(E_i - E_j)})$: the pairs (0, 1), (2, 3), ... and
    (1, 2), (3, 4), ... by turns, so that replicas are carried from end to end rather than diffuse there.

    Args:
        model: The energy, or a sampler of any kind that moves the replicas.
        inner: The class of the inner sampler, where `model` is an energy; `HamiltonianMonteCarlo` if left out.
        temperatures: $T_i$, rising from 1. A warm-up leaves them as they are.
        n_temperatures: Otherwise, how many there are, 8 if left out; they form a geometric series, which a warm-up
            tunes.
        max_temperature: The hottest, 20 if left out: high enough for the inner sampler to cross between modes, about
            the height of the energy barrier between them.
        swap_every: Transitions from one swap to the next.
        **options: For the inner sampler: its parameters, one value for all temperatures, and `dtype`, `device`,
            `precision`.

    Attributes:
        inner: The inner sampler; its parameters are set there.
        temperatures: Those in force.

    Note:
        As exact as the inner sampler: the product of the densities at all temperatures is invariant. All replicas start
        at the starting points, so the first draws are biased; a warm-up leaves them out. One transition costs
        one of the inner sampler for each replica, in one batch (with `model_kwargs`, one batch a replica), and for
        inner samplers that keep no energies, such as `LangevinDynamics`, one energy a replica. Diagnostics
        have `swap_rate`, `[chain, draw, pair]`, NaN for a pair that had no turn, and `round_trips`, the number
        completed, besides those of the inner sampler for the cold replica; a chain with a replica whose energy is not
        finite is flagged in `diverging`.

        A warm-up tunes the ladder to equal swap rates: from the rates in windows that double, the rejections summed up
        along the ladder are a function of the temperature, and the next ladder divides its range evenly. That sum is
        the barrier Λ in `tuning`; about 2 Λ + 1 temperatures serve best. The inner sampler tunes itself on the cold
        replica.

    References: Syed, Bouchard-Côté, Deligiannidis & Doucet (2022), https://doi.org/10.1111/rssb.12464

    Example:
        >>> from torchebm.core import GaussianMixtureModel
        >>> model = GaussianMixtureModel(means=[[-4.0], [4.0]], scales=1.0)
        >>> sampler = ParallelTempering(model, step_size=0.5, n_temperatures=5, max_temperature=10.0)
        >>> x = sampler.sample(torch.full((500, 1), 4.0), n_steps=200, generator=torch.Generator().manual_seed(0))
        >>> bool(((x > 0).float().mean() - 0.5).abs() < 0.1)
        True
    """

    step_size = Scheduled(above=0.0)
    """Of the inner sampler, if it has one."""

    def __init__(self, model: MarkovSampler | BaseModel | Callable[..., Tensor], *,
                 inner: type[MarkovSampler] | None = None, temperatures: Sequence[float] | None = None,
                 n_temperatures: int | None = None, max_temperature: float | None = None, swap_every: int = 1,
                 **options: Any) -> None:  # fmt: skip
        super().__init__(model, inner, **options)
        self.swap_every = integer("swap_every", swap_every, at_least=1)
        self.tunes_ladder = temperatures is None
        if temperatures is None:
            n = integer("n_temperatures", 8 if n_temperatures is None else n_temperatures, at_least=2)
            hottest = number("max_temperature", 20.0 if max_temperature is None else max_temperature, above=1.0)
            temperatures = [hottest ** (i / (n - 1)) for i in range(n)]
        elif n_temperatures is not None or max_temperature is not None:
            raise TypeError("give temperatures, or n_temperatures and max_temperature, not both.")
        self.temperatures = temperatures

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The ladder in force."""
        return self._temperatures

    @temperatures.setter
    def temperatures(self, temperatures: Sequence[float]) -> None:
        self.given_temperatures = self._set_ladder(temperatures)

    def _set_ladder(self, temperatures: Sequence[float]) -> tuple[float, ...]:
        """Puts a ladder in force, which a later warm-up does not begin with."""
        if isinstance(temperatures, Tensor):
            temperatures = temperatures.tolist()
        if not isinstance(temperatures, (list, tuple)):
            raise TypeError(f"temperatures must be a list, such as [1.0, 2.0, 4.0]; got {temperatures!r}.")
        ladder = tuple(number("each temperature", value, above=0.0) for value in temperatures)
        if len(ladder) < 2 or ladder[0] != 1 or any(a >= b for a, b in pairwise(ladder)):
            raise ValueError(f"temperatures must rise from 1.0, as [1.0, 2.0, 4.0]; got {list(ladder)}.")
        self._temperatures = ladder
        self._ladder_tensor: Tensor | None = None
        return ladder

    def ladder(self, x: Tensor) -> Float[Tensor, " replica"]:
        """The temperatures in the dtype of the chains, in which the inner sampler takes them."""
        kept = self._ladder_tensor
        if kept is None or kept.dtype != x.dtype or kept.device != x.device:
            self._ladder_tensor = kept = torch.tensor(self._temperatures, dtype=x.dtype, device=x.device)
        return kept

    # what is kept -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the inner sampler keeps, the ladder, and the report of a warm-up."""
        inner = self.inner.state_dict()
        tuning = None if self.tuning is None else dict(self.tuning)
        own = {
            "sampler": type(self).__name__,
            "temperatures": list(self.temperatures),
            "swap_every": self.swap_every,
            "tuning": tuning,
        }
        return inner | own | {"inner_sampler": inner["sampler"], "inner_tuning": inner["tuning"]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        inner, own = dict(state), ("temperatures", "swap_every", "inner_sampler", "inner_tuning")
        if state.get("sampler") != type(self).__name__ or not {"tuning", *own} <= set(inner):
            raise ValueError(
                f"the saved state of another kind of sampler: {type(self).__name__} has temperatures, the state only "
                f"{', '.join(sorted(inner))}."
            )
        tuning = inner["tuning"]
        temperatures, swap_every, inner["sampler"], inner["tuning"] = (inner.pop(name) for name in own)
        self.inner.load_state_dict(inner)
        self._set_ladder(temperatures)
        self.swap_every, self.tuning = integer("swap_every", swap_every, at_least=1), tuning

    def adaptation(self, n_warmup: int) -> Adaptation:
        return LadderTuning(self, n_warmup)

    # the kernel -------------------------------------------------------------------------------------------------------

    def prepare(self, x: Float[Tensor, " chain *event"]) -> None:
        self.ladder(x)
        self.inner.prepare(x)

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Any:
        n = len(self.temperatures)
        moving = self.inner.init(repeat(x, n), ReplicaTarget(target, n), generator)
        way = torch.zeros(len(x), n, dtype=torch.int8, device=x.device)
        way[:, 0] = TOWARDS_HOT
        time = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return tempered(each_leaf(moving, lambda leaf: leaf.unflatten(0, way.shape)), time, way)

    def refresh(self, state: Any, target: Target) -> Any:
        fresh = self.inner.refresh(flat(state), ReplicaTarget(target, state.way.shape[1]))
        return tempered(each_leaf(fresh, lambda leaf: leaf.unflatten(0, state.way.shape)), state.time, state.way)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """That of the inner sampler for each replica; and one uniform for each pair of neighbours."""
        size = len(x), len(self.temperatures)
        inner = self.inner.noise(repeat(x, size[1]), n)
        u = x.new_empty(n, size[0], size[1] - 1, dtype=torch.promote_types(x.dtype, torch.float32))
        return *(buffer.unflatten(1, size) for buffer in inner), u

    def draw(self, out: tuple[Tensor, ...], generator: torch.Generator | None) -> None:
        self.inner.draw(tuple(buffer.flatten(0, 1) for buffer in out[:-1]), generator)
        uniform_(out[-1], generator)

    def step(self, state: Any, noise: tuple[Tensor, ...], target: Target, *, temperature: float | Tensor = 1.0,
             **parameters: Any) -> tuple[Any, SwapInfo]:  # fmt: skip
        *inner_noise, u = noise
        size = state.way.shape  # [chain, replica]
        ladder = self.ladder(state.x)
        temperatures = (ladder * per_chain(temperature, u)).to(ladder.dtype).expand(size)
        each = ReplicaTarget(target, size[1])
        own = {name: _for_replicas(value, size[1]) for name, value in parameters.items()}
        moved, info = self.inner.step(
            flat(state), tuple(z.flatten(0, 1) for z in inner_noise), each, temperature=temperatures.flatten(),
            **own,
        )  # fmt: skip
        energy = self.inner.energy(moved, each).unflatten(0, size)  # [chain, replica]

        turn = torch.div(state.time, self.swap_every, rounding_mode="floor").unsqueeze(1)
        pairs = torch.arange(size[1] - 1, device=u.device)
        tried = ((pairs + turn) % 2 == 0) & ((state.time + 1) % self.swap_every == 0).unsqueeze(1)  # [chain, pair]
        swapped, rate = swaps(energy, temperatures, u)
        swapped = swapped & tried
        index = partners(swapped)
        way = state.way.gather(1, index)
        returned = way[:, 0] == TOWARDS_COLD
        way[:, 0] = TOWARDS_HOT
        way[:, -1] = torch.where(way[:, -1] == TOWARDS_HOT, TOWARDS_COLD, way[:, -1])

        rows = torch.arange(size[0], device=u.device).unsqueeze(1)
        replicas = each_leaf(moved, lambda leaf: leaf.unflatten(0, size)[rows, index])
        cold = each_leaf(info, lambda leaf: leaf.unflatten(0, size)[:, 0])
        lost = ~energy.isfinite().all(1)
        report = SwapInfo(cold, lost, torch.where(tried, rate, torch.nan), returned.to(torch.int64))
        return tempered(replicas, state.time + 1, way), report


def _for_replicas(value: Any, n: int) -> Any:
    """A parameter that is one number a chain, as one a replica."""
    return value.repeat_interleave(n) if isinstance(value, Tensor) and value.ndim else value
