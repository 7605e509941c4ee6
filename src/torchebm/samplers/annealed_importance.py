"""Annealed importance sampling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer
from torchebm.core.model import evaluating
from torchebm.core.progress import progress_bar

from .annealing_files import RunFile, batches_of, seed_from
from .annealing_schedule import AnnealedSampler, AnnealingSchedule

__all__ = ["AnnealedImportanceSampling", "AnnealedRun"]


class AnnealedRun(NamedTuple):
    """What a run yields."""

    log_weights: Float[Tensor, " particle"]
    r"""$\log w$, float64; the mean of w estimates $Z / Z_{base}$, of a reverse run $Z_{base} / Z$."""
    x: Float[Tensor, " particle *event"]
    """Where the particles ended, in the data's units; of a forward run, draws of the model when weighted by w."""
    acceptance: Float[Tensor, " temperature"]
    """Mean acceptance rate of the kernel at each temperature that particles moved at."""


class AnnealedImportanceSampling(AnnealedSampler):
    r"""Carries independent particles from a base density to the model, and weighs them: unbiased for the normaliser.

    $\log w = \sum_{k=1}^{K} (\beta_k - \beta_{k-1}) (E_{base} - E)(x_{k-1})$, with $x_0$ drawn from the base and
    $x_k$ reached from $x_{k-1}$ by the kernel at $\beta_k$. Then $\mathbb E[w] = Z / Z_{base}$ whatever the kernel and
    the temperatures, if the kernel leaves each density of the path invariant. Of runs in reverse, from draws of the
    model, $\mathbb E[w] = Z_{base} / Z$. By Jensen's inequality the logarithm of a mean weight is, in expectation, too
    small: forward runs bound $\log Z$ from below, reverse ones from above.

    Args:
        kernel: A sampler of the model that has an accept test, such as `HamiltonianMonteCarlo`.
        base: Where paths begin: a model with `log_z` and `sample`, in the data's units, or what `gaussian_base`
            returns; left out, the standard normal in the coordinates that the kernel walks in. With `UniformModel` the
            normaliser is that of the model inside the box.
        n_steps: Transitions at each temperature.
        step_spread: The transitions at one temperature use step sizes from the tuned one down to it divided by this, in
            geometric steps: for densities whose scale differs from place to place, as a funnel's does.

    Note:
        Temperatures and kernels come from `tune`, a pilot run of its own, or from `untuned`, and do not change in a
        run; hence the estimate is unbiased. A particle costs, a temperature, one energy and gradient and what the
        kernel's transitions cost. Particles are independent.

    References: Neal (2001), https://doi.org/10.1023/A:1008923215028; for the two bounds Grosse, Ghahramani & Adams
    (2015), https://arxiv.org/abs/1511.02543

    Example:
        >>> from torchebm.core import GaussianModel
        >>> from torchebm.samplers import HamiltonianMonteCarlo
        >>> model = GaussianModel(torch.ones(2), 0.25 * torch.eye(2))
        >>> ais = AnnealedImportanceSampling(HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=5))
        >>> generator = torch.Generator().manual_seed(0)
        >>> schedule = ais.tune(100, generator=generator)
        >>> run = ais.run(200, schedule, generator=generator)
        >>> log_z = ais.base.log_z + run.log_weights.logsumexp(0) - torch.tensor(200.0).log()
        >>> bool((log_z - model.log_z).abs() < 0.1)
        True
    """

    @torch.no_grad()
    def run(self, n_particles: int, schedule: AnnealingSchedule, *,
            start: Float[Tensor, " particle *event"] | None = None, batch_size: int | None = None,
            generator: torch.Generator | None = None, progress: bool = False,
            checkpoint: str | Path | None = None, save_every: float = 60.0) -> AnnealedRun:  # fmt: skip
        """Weighs particles that go from the base to the model, or from draws of the model to the base.

        Args:
            n_particles: How many. Of a reverse run, as many as `start` has.
            schedule: Temperatures and kernels.
            start: Draws of the model, in the data's units: makes it a reverse run.
            batch_size: Particles at a time; all of them if left out. Each batch has a stream of its own.
            generator: Source of randomness.
            progress: Show a progress bar.
            checkpoint: A `.safetensors` file that the run is saved to and, if it exists, continued from, bit for bit.
            save_every: Seconds between savings.

        Raises:
            ValueError: If weights are NaN or infinite, which the message explains; if draws in `start` lie where the
                base has no density; or if the file is of another run.
        """
        n_particles = integer("n_particles", n_particles, at_least=1)
        if start is not None:
            start = self._given(start, n_particles)
        sizes = batches_of(n_particles, batch_size)
        way = list(zip(schedule.betas, [None, *range(len(schedule))], strict=True))
        way = way if start is None else way[::-1]
        file = RunFile(checkpoint, save_every, seed_from(generator, self.kernel.device), {
            "kind": "annealed importance sampling", "reverse": start is not None, "n_particles": n_particles,
            "batches": sizes, "betas": list(schedule.betas), "n_steps": self.n_steps, "step_spread": self.step_spread,
        }, self.kernel.device)  # fmt: skip
        title = "AIS, forward" if start is None else "AIS, reverse"
        with (
            evaluating(self.kernel.model), evaluating(self.path), self.lent(),
            progress_bar(progress, len(sizes) * len(schedule), title) as tick,
        ):  # fmt: skip
            for b, size in enumerate(sizes):
                if file.has(b):
                    tick(len(schedule))
                    continue
                first = None if start is None else start[sum(sizes[:b]) :][:size]
                file.done(b, self._batch(b, size, way, schedule, first, file, tick))
        log_weights, x, rates = (torch.cat(leaf) for leaf in zip(*file.results(), strict=True))
        _check_weights(log_weights, start is not None)
        shares = torch.tensor(sizes, dtype=rates.dtype).to(rates.device) / n_particles
        return AnnealedRun(log_weights, self.to_user(x), (rates.view(len(sizes), -1) * shares.unsqueeze(1)).sum(0))

    def _batch(self, b: int, size: int, way: list[Any], schedule: AnnealingSchedule, first: Tensor | None,
               file: RunFile, tick: Callable[..., None]) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Log weights, last points, and acceptance rates."""
        generator = file.stream(b)
        saved = file.resume(b, generator)
        if saved is None:
            x = self.draw(size, generator) if first is None else first
            k, state = 1, None
            log_weights = torch.zeros(size, dtype=torch.float64, device=x.device)
            rates = torch.zeros(0, dtype=torch.float64, device=x.device)
        else:
            k, (log_weights, rates, *leaves) = saved
            x = leaves[0]
            kind = type(self.kernel.init(x, self.target(x, way[k - 1][0]), file.stream(b)))
            state = kind(*leaves)
            tick(k - 1)
        while True:
            target = self.target(x)
            parts = target.parts(x, self.kernel.needs_gradient)
            log_weights = log_weights + (way[k][0] - way[k - 1][0]) * parts.gap()
            if k == len(way) - 1:
                tick()
                return log_weights, x, rates
            beta, kernel = way[k][0], schedule.kernels[way[k][1]]
            target = target.at(self.beta(beta, x), x, parts)
            state = self.begin(state, x, None, target, generator)
            state, rate = self.move(state, kernel, target, (k - 1) * self.n_steps, self.n_steps, generator)
            x, rates, k = state.x, torch.cat([rates, rate.view(1)]), k + 1
            file.save(b, k, (log_weights, rates, *state), generator)
            tick()

    def _given(self, start: Tensor, n_particles: int) -> Tensor:
        """Draws of the model, checked, where and as the kernel walks."""
        if not isinstance(start, Tensor) or len(start) != n_particles:
            got = list(start.shape) if isinstance(start, Tensor) else repr(start)
            raise ValueError(f"start must be a tensor of n_particles={n_particles} draws of the model, [particle, "
                             f"*event]; got {got}.")  # fmt: skip
        z = self.from_user(start)
        outside = int((self.base.energy(z) == torch.inf).sum())
        if outside:
            raise ValueError(f"{outside} of {len(z)} draws of the model lie where the base has no density: a path from "
                             "there sees a part of the model only. Choose a base that covers it.")  # fmt: skip
        return z


def _check_weights(log_weights: Tensor, reverse: bool) -> None:
    bad = int((log_weights.isnan() | (log_weights == torch.inf)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(log_weights)} weights are NaN or infinite: the model's energy is NaN or -inf "
                         "somewhere along the path.")  # fmt: skip
    if not bool((log_weights > -torch.inf).any()):
        raise ValueError("all weights are zero: " + ("the base" if reverse else "the model") + " has no density where "
                         "any particle came.")  # fmt: skip
