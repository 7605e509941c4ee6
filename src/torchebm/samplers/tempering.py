"""Parallel tempering."""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torchebm.core.adaptation import Adaptation
from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler, Observer, Run
from torchebm.core.model import BaseModel
from torchebm.core.random import uniform_
from torchebm.core.sampler import Scheduled
from torchebm.core.schedulers import BaseScheduler
from torchebm.core.shapes import per_chain
from torchebm.core.target import Target

from .acceptance import accepts
from .hmc import HamiltonianMonteCarlo

__all__ = ["ParallelTempering", "ReplicaTarget", "equal_rates"]

_TOWARDS_HOT, _TOWARDS_COLD = 1, 2  # which end a replica saw last; 0 until it has been at the cold one


class SwapInfo(NamedTuple):
    """What a transition reports: of the cold replica what the inner sampler does, and the swaps of all."""

    cold: Any
    """The inner sampler's info of the replica at temperature 1."""
    lost: Bool[Tensor, " chain"]
    """Whether the energy of some replica is not finite."""
    swap_rate: Float[Tensor, " chain pair"]
    """Probability with which neighbours were swapped; 0 where it was not their turn."""
    tried: Bool[Tensor, " chain pair"]
    """Whether it was their turn."""
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


class ReplicaTarget(Target):
    """The target of `[chain * replica, *event]`, where conditions belong to chains.

    Without conditions all replicas are evaluated at once; with conditions one after the other, each with the conditions
    as they were given.

    Args:
        target: That of `[chain, *event]`.
        n: Replicas a chain.
    """

    def __init__(self, target: Target, n: int) -> None:
        vars(self).update(vars(target))
        self._own, self._n = target, n

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.model_kwargs:
            return self._own(x)
        energies, gradients = zip(*(self._own(part) for part in self._parts(x)), strict=True)
        return torch.stack(energies, 1).flatten(0, 1), torch.stack(gradients, 1).flatten(0, 1)

    def gradient(self, x: Tensor) -> Tensor:
        return self._each(self._own.gradient, x)

    def energy(self, x: Tensor) -> Tensor:
        return self._each(self._own.energy, x)

    def _each(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.model_kwargs:
            return function(x)
        return torch.stack([function(part) for part in self._parts(x)], 1).flatten(0, 1)

    def _parts(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.unflatten(0, (len(x) // self._n, self._n)).unbind(1)


class ParallelTempering(MarkovSampler):
    r"""Runs replicas of each chain at rising temperatures and swaps neighbours; the choice for modes far apart.

    Replica i has the density $e^{-E / T_i}$, $1 = T_0 < T_1 < \dots$: the hot ones cross barriers, and swaps take what
    they find down to the cold one, which is the chain that is returned. After each transition of all replicas,
    neighbours are swapped with probability $\min(1, e^{(1/T_i - 1/T_j)(E_i - E_j)})$: the pairs (0, 1), (2, 3), ... and
    (1, 2), (3, 4), ... by turns, so that replicas are carried from end to end rather than diffuse there.

    Args:
        model: The energy, or a sampler of any kind that moves the replicas.
        inner: The class of the inner sampler, where `model` is an energy.
        temperatures: $T_i$, rising from 1. A warm-up leaves them as they are.
        n_temperatures: Otherwise, how many there are; they form a geometric series, which a warm-up tunes.
        max_temperature: The hottest: high enough for the inner sampler to cross between modes, about the height of the
            energy barrier between them.
        swap_every: Transitions from one swap to the next.
        **options: For the inner sampler: its parameters, one value for all temperatures, and `dtype`, `device`,
            `precision`.

    Attributes:
        inner: The inner sampler; its parameters are set there.
        temperatures: Those in force.
        swap_rates: `[pair]`: the mean over the last run that made diagnostics; NaN for a pair that had no turn.

    Note:
        As exact as the inner sampler: the product of the densities at all temperatures is invariant. All replicas start
        at the starting points, so the first draws are biased; a warm-up leaves them out. One transition costs
        one of the inner sampler for each replica, in one batch (with `model_kwargs`, one batch a replica), and for
        inner samplers that keep no energies, such as `LangevinDynamics`, one energy a replica. Diagnostics
        have `swap_rate`, the mean over the pairs that had their turn, and `round_trips`, the number completed, besides
        those of the inner sampler for the cold replica; a chain with a replica whose energy is not finite is flagged in
        `diverging`.

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
                 inner: type[MarkovSampler] = HamiltonianMonteCarlo, temperatures: Sequence[float] | None = None,
                 n_temperatures: int = 8, max_temperature: float = 20.0, swap_every: int = 1,
                 **options: Any) -> None:  # fmt: skip
        if isinstance(model, MarkovSampler):
            if options:
                raise TypeError(f"{type(model).__name__} is a sampler already: set {', '.join(options)} there.")
            moves = model
        else:
            if not (isinstance(inner, type) and issubclass(inner, MarkovSampler)):
                raise TypeError(f"inner must be a class of samplers, such as HamiltonianMonteCarlo; got {inner!r}.")
            moves = inner(model, **options)
        super().__init__(moves.model, dtype=moves._dtype, device=moves._device, precision=moves.precision)
        self.inner = moves
        self.can_reject, self.needs_gradient = self.inner.can_reject, self.inner.needs_gradient
        self.divergence_advice = self.inner.divergence_advice
        self.swap_every = integer("swap_every", swap_every, at_least=1)
        self.swap_rates: Tensor | None = None
        self._record: _SwapRecord | None = None
        self.tunes_ladder = temperatures is None
        if temperatures is None:
            n = integer("n_temperatures", n_temperatures, at_least=2)
            hottest = number("max_temperature", max_temperature, above=1.0)
            temperatures = [hottest ** (i / (n - 1)) for i in range(n)]
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

    # parameters are those of the inner sampler ------------------------------------------------------------------------

    @property
    def schedulers(self) -> dict[str, BaseScheduler]:
        """Those of the inner sampler."""
        return self.inner.schedulers

    def register_scheduler(self, name: str, scheduler: float | BaseScheduler | Callable[[int], float]) -> None:
        if name not in self.schedulers:
            raise ValueError(f"{type(self.inner).__name__} has no {name}; it has {', '.join(self.schedulers)}.")
        self.inner.register_scheduler(name, scheduler)

    def _read(self, name: str, scheduler: BaseScheduler, step: int) -> float:
        return self.inner._read(name, scheduler, step)

    def state_dict(self) -> dict[str, Any]:
        """What the inner sampler keeps, the ladder, and the report of a warm-up."""
        inner = self.inner.state_dict()
        tuning = None if self.tuning is None else dict(self.tuning)
        own = {"temperatures": list(self.temperatures), "tuning": tuning, "inner_tuning": inner["tuning"]}
        return inner | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        inner = dict(state)
        if "temperatures" not in inner or "inner_tuning" not in inner:
            raise ValueError(
                f"the saved state of another kind of sampler: {type(self).__name__} has temperatures, the state only "
                f"{', '.join(sorted(inner))}."
            )
        temperatures, tuning = inner.pop("temperatures"), inner["tuning"]
        inner["tuning"] = inner.pop("inner_tuning")
        self.inner.load_state_dict(inner)
        self._set_ladder(temperatures)
        self.tuning = tuning

    def adaptation(self, n_warmup: int) -> Adaptation:
        return LadderTuning(self, n_warmup)

    # the kernel -------------------------------------------------------------------------------------------------------

    def init(self, x: Tensor, target: Target, generator: torch.Generator | None) -> Any:
        n = len(self.temperatures)
        moving = self.inner.init(_repeat(x, n), ReplicaTarget(target, n), generator)
        way = torch.zeros(len(x), n, dtype=torch.int8, device=x.device)
        way[:, 0] = _TOWARDS_HOT
        time = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return _tempered(_each_leaf(moving, lambda leaf: leaf.unflatten(0, way.shape)), time, way)

    def refresh(self, state: Any, target: Target) -> Any:
        fresh = self.inner.refresh(_flat(state), ReplicaTarget(target, state.way.shape[1]))
        return _tempered(_each_leaf(fresh, lambda leaf: leaf.unflatten(0, state.way.shape)), state.time, state.way)

    def noise(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """That of the inner sampler for each replica; and one uniform for each pair of neighbours."""
        size = len(x), len(self.temperatures)
        inner = self.inner.noise(_repeat(x, size[1]), n)
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
        moved, info = self.inner.step(
            _flat(state), tuple(z.flatten(0, 1) for z in inner_noise), each, temperature=temperatures.flatten(),
            **parameters,
        )  # fmt: skip
        energy = self.inner.energy(moved, each).unflatten(0, size)  # [chain, replica]

        turn = torch.div(state.time, self.swap_every, rounding_mode="floor").unsqueeze(1)
        pairs = torch.arange(size[1] - 1, device=u.device)
        tried = ((pairs + turn) % 2 == 0) & ((state.time + 1) % self.swap_every == 0).unsqueeze(1)  # [chain, pair]
        swapped, rate = swaps(energy, temperatures, u)
        swapped = swapped & tried
        index = _partners(swapped)
        way = state.way.gather(1, index)
        returned = way[:, 0] == _TOWARDS_COLD
        way[:, 0] = _TOWARDS_HOT
        way[:, -1] = torch.where(way[:, -1] == _TOWARDS_HOT, _TOWARDS_COLD, way[:, -1])

        rows = torch.arange(size[0], device=u.device).unsqueeze(1)
        replicas = _each_leaf(moved, lambda leaf: leaf.unflatten(0, size)[rows, index])
        cold = _each_leaf(info, lambda leaf: leaf.unflatten(0, size)[:, 0])
        lost = ~energy.isfinite().all(1)
        report = SwapInfo(cold, lost, torch.where(tried, rate, 0.0), tried, returned.to(torch.int64))
        return _tempered(replicas, state.time + 1, way), report

    # diagnostics ------------------------------------------------------------------------------------------------------

    def advance(self, state: Any, start: int, n_steps: int, *, observe: Observer | None = None,
                **options: Any) -> Any:  # fmt: skip
        record = self._record
        if record is None:
            return super().advance(state, start, n_steps, observe=observe, **options)

        def both(i: int, state: Any, info: SwapInfo) -> None:
            record(info)
            if observe is not None:
                observe(i, state, info)

        return super().advance(state, start, n_steps, observe=both, **options)

    def run(self, x: Tensor | None = None, dim: int | tuple[int, ...] | None = None, n_steps: int = 100,
            n_samples: int = 1, thin: int = 1, *, n_warmup: int = 0, diagnostics: bool = False,
            **options: Any) -> Run:  # fmt: skip
        """As everywhere; diagnostics tell of swaps as well."""
        self._record = record = _SwapRecord(n_warmup) if diagnostics else None
        undecorated = cast(Any, super().run).__wrapped__  # a frame in between would make warnings point at this line
        try:
            with torch.no_grad():
                run = undecorated(self, x, dim, n_steps, n_samples, thin, n_warmup=n_warmup, diagnostics=diagnostics,
                                  **options)  # fmt: skip
        finally:
            self._record = None
        if record is not None:
            run.diagnostics.update(record.per_draw(run.diagnostics["energy"], thin))
            self.swap_rates = record.per_pair()
        return run


def swaps(
    energy: Float[Tensor, " chain replica"],
    temperatures: Float[Tensor, " chain replica"],
    u: Float[Tensor, " chain pair"],
) -> tuple[Bool[Tensor, " chain pair"], Float[Tensor, " chain pair"]]:
    """Which neighbours would be swapped, were it their turn, and with what probability.

    An energy that is not finite is never swapped towards the cold end, and away from it whenever the other is finite.
    """
    wide = torch.promote_types(energy.dtype, u.dtype)
    beta, energy = 1 / temperatures.to(wide), energy.to(wide)
    log_ratio = (beta[:, :-1] - beta[:, 1:]) * (energy[:, :-1] - energy[:, 1:])
    return accepts(log_ratio.to(u.dtype), u, energy[:, :-1], energy[:, 1:])


def _partners(swapped: Bool[Tensor, " chain pair"]) -> Int[Tensor, " chain replica"]:
    """For each place the replica that comes there; no two neighbouring pairs are swapped at once."""
    swapped = swapped.to(torch.int64)
    up, down = torch.nn.functional.pad(swapped, (0, 1)), torch.nn.functional.pad(swapped, (1, 0))
    return torch.arange(up.shape[1], device=swapped.device) + up - down


# the state: counters, the replicas' leaves [chain, replica, ...], and those of the cold one that others ask for -------


@cache
def _kind_of_state(inner: type) -> type:
    """The state whose replicas are those of an inner sampler's state."""
    names: tuple[str, ...] = inner._fields  # pyrefly: ignore[missing-attribute]
    cold = [name for name in ("x", "energy") if name in names]
    kind: Any = namedtuple(f"Tempered{inner.__name__}", [*cold, "time", "way", *(f"replica_{n}" for n in names)])
    kind.inner, kind.n_cold = inner, len(cold)
    kind.__reduce__ = lambda self: (_restore, (inner, tuple(self)))  # a class made here is found by no name
    return kind


def _restore(inner: type, leaves: tuple[Tensor, ...]) -> Any:
    return _kind_of_state(inner)(*leaves)


def _tempered(replicas: Any, time: Int[Tensor, " chain"], way: Int[Tensor, " chain replica"]) -> Any:
    """A state, from the inner sampler's leaves `[chain, replica, ...]`, x first and energy, if there is one, anywhere.

    Args:
        replicas: The inner sampler's state.
        time: Transitions so far, from which the pairs that have their turn follow.
        way: Which end each replica saw last.
    """
    kind: Any = _kind_of_state(type(replicas))
    cold = {name: getattr(replicas, name)[:, 0] for name in kind._fields[: kind.n_cold]}
    return kind(*cold.values(), time, way, *replicas)


def _flat(state: Any) -> Any:
    """The inner sampler's state, leaves `[chain * replica, ...]`."""
    kind = type(state)
    return kind.inner(*(leaf.flatten(0, 1) for leaf in state[kind.n_cold + 2 :]))


def _each_leaf(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return type(state)(*map(function, state))


def _repeat(x: Float[Tensor, " chain *event"], n: int) -> Tensor:
    return x.unsqueeze(1).expand(len(x), n, *x.shape[1:]).flatten(0, 1)


# tuning ---------------------------------------------------------------------------------------------------------------


def equal_rates(temperatures: Sequence[float], rejection_rates: Sequence[float]) -> list[float]:
    r"""The ladder, between the same ends, on which all neighbours would be rejected equally often.

    $\Lambda(T_i) = \sum_{j<i} r_j$, interpolated in $\log T$, is the barrier that lies below a temperature; the new
    ladder divides it evenly.

    Args:
        temperatures: The ladder in force, rising.
        rejection_rates: $r_j$ of the pairs of neighbours, one fewer.

    Example:
        >>> [round(t, 2) for t in equal_rates([1.0, 2.0, 4.0], [0.6, 0.2])]
        [1.0, 1.59, 4.0]
    """
    # Where little is rejected, ladders do not matter: a floor leaves such a part as it is.
    barrier = np.concatenate([[0.0], np.cumsum(np.maximum(rejection_rates, 0.01))])
    even = np.linspace(0.0, barrier[-1], len(barrier))[1:-1]
    inside = np.exp(np.interp(even, barrier, np.log(temperatures)))
    return [temperatures[0], *inside.tolist(), temperatures[-1]]


class LadderTuning:
    """Moves the temperatures to equal swap rates while a sampler warms up, and lets the inner sampler tune itself.

    Windows double, and the ladder is renewed where they end; the last quarter of a warm-up is left to settle. The host
    reads swap rates there, not in between.

    Args:
        sampler: Whose ladder.
        n_warmup: Transitions to come.
    """

    def __init__(self, sampler: ParallelTempering, n_warmup: int) -> None:
        self.sampler, self.n_warmup = sampler, n_warmup
        self.inner = sampler.inner.adaptation(n_warmup)
        self._before = sampler.temperatures

    def begin(self, state: Any, target: Target, generator: torch.Generator | None) -> tuple[Any, dict[str, Any]]:
        window, self._ends = max(2 * self.sampler.swap_every, self.n_warmup // 20), []
        if self.sampler.tunes_ladder:
            self.sampler._set_ladder(self.sampler.given_temperatures)
            self._ends = [end for end in (window * k for k in (1, 3, 7, 15)) if end <= 0.75 * self.n_warmup]
        self._open_window(state)
        if self.inner is None:
            return state, {}
        cold, parameters = self.inner.begin(_cold(state), target, generator)
        kind: Any = type(state)
        for name, leaf in cold._asdict().items():
            replicas = getattr(state, f"replica_{name}")
            state = state._replace(**{f"replica_{name}": torch.cat([leaf.unsqueeze(1), replicas[:, 1:]], 1)})
        return _tempered(kind.inner(*state[kind.n_cold + 2 :]), state.time, state.way), parameters

    def update(self, i: int, state: Any, info: SwapInfo) -> dict[str, Any]:
        self._rate = self._rate + info.swap_rate.sum(0)
        self._tried = self._tried + info.tried.sum(0)
        if self._ends and i + 1 == self._ends[0]:
            del self._ends[0]
            rates = (self._rate / self._tried).tolist()
            self.sampler._set_ladder(equal_rates(self.sampler.temperatures, [1 - rate for rate in rates]))
            self._open_window(state)
        return {} if self.inner is None else self.inner.update(i, _cold(state), info.cold)

    def finish(self) -> None:
        if self.inner is not None:
            self.inner.finish()
        rates = self._rate / self._tried
        self.sampler.tuning = {
            "temperatures": list(self.sampler.temperatures),
            "swap_rates": rates.tolist(),
            "barrier": float((1 - rates).sum()),
            "n_warmup": self.n_warmup,
            **({} if self.sampler.inner.tuning is None else {"inner": dict(self.sampler.inner.tuning)}),
        }

    def abandon(self) -> None:
        self.sampler._set_ladder(self._before)
        if self.inner is not None:
            self.inner.abandon()

    def _open_window(self, state: Any) -> None:
        wide = torch.float32 if state.x.device.type == "mps" else torch.float64
        self._rate = torch.zeros(state.way.shape[1] - 1, dtype=wide, device=state.x.device)
        self._tried = torch.zeros_like(self._rate)


def _cold(state: Any) -> Any:
    """The inner sampler's state of the cold replica."""
    kind = type(state)
    return kind.inner(*(leaf[:, 0] for leaf in state[kind.n_cold + 2 :]))


class _SwapRecord:
    """What the transitions of a run tell of swaps, the first `skip` of them left out."""

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.rates: list[Tensor] = []  # [chain] each: summed over pairs
        self.tries: list[Tensor] = []
        self.trips: list[Tensor] = []
        self.totals: tuple[Tensor, Tensor] | None = None  # [pair]: summed over chains and transitions

    def __call__(self, info: SwapInfo) -> None:
        if self.skip > 0:
            self.skip -= 1
            return
        self.rates.append(info.swap_rate.sum(1))
        self.tries.append(info.tried.sum(1))
        self.trips.append(info.round_trips)
        now = info.swap_rate.sum(0), info.tried.sum(0)
        self.totals = now if self.totals is None else (self.totals[0] + now[0], self.totals[1] + now[1])

    def per_draw(self, energy: Float[Tensor, " chain draw"], thin: int) -> dict[str, Tensor]:
        """`swap_rate`, NaN where no pair had its turn, and `round_trips`, each `[chain, draw]`."""
        n = energy.shape[1] * thin
        if not self.rates:  # no transitions, or no chains
            wide = torch.promote_types(energy.dtype, torch.float32)
            return {"swap_rate": energy.to(wide), "round_trips": energy.to(torch.int64)}
        rate, tried, trips = (
            torch.stack(kept[:n], 1).unflatten(1, (-1, thin)).sum(2) for kept in (self.rates, self.tries, self.trips)
        )
        return {"swap_rate": rate / tried, "round_trips": trips}

    def per_pair(self) -> Float[Tensor, " pair"] | None:
        return None if self.totals is None else self.totals[0] / self.totals[1]
