"""The temperatures of parallel tempering, tuned to equal swap rates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from torchebm.core.target import Target

from .replicas import cold_replica, tempered

__all__ = ["LadderTuning", "equal_rates"]


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
        sampler: The `ParallelTempering` whose ladder it is.
        n_warmup: Transitions to come.
    """

    def __init__(self, sampler: Any, n_warmup: int) -> None:
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
        cold, parameters = self.inner.begin(cold_replica(state), target, generator)
        return with_cold_replica(state, cold), parameters

    def update(self, i: int, state: Any, info: Any) -> tuple[Any, dict[str, Any]]:
        self._rate = self._rate + info.swap_rate.nansum(0)
        self._tried = self._tried + (~info.swap_rate.isnan()).sum(0)
        if self._ends and i + 1 == self._ends[0]:
            del self._ends[0]
            rates = (self._rate / self._tried).tolist()
            self.sampler._set_ladder(equal_rates(self.sampler.temperatures, [1 - rate for rate in rates]))
            self._open_window(state)
        if self.inner is None:
            return state, {}
        before = cold_replica(state)
        cold, parameters = self.inner.update(i, before, info.cold)
        return state if cold is before else with_cold_replica(state, cold), parameters

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


def with_cold_replica(state: Any, cold: Any) -> Any:
    """The state with another replica at temperature 1."""
    kind: Any = type(state)
    for name, leaf in cold._asdict().items():
        replicas = getattr(state, f"replica_{name}")
        state = state._replace(**{f"replica_{name}": torch.cat([leaf.unsqueeze(1), replicas[:, 1:]], 1)})
    return tempered(kind.inner(*state[kind.n_cold + 2 :]), state.time, state.way)
