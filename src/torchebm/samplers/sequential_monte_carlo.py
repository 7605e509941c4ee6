"""Sequential Monte Carlo along a path of densities."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchebm.core.checks import integer, number
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel, evaluating
from torchebm.core.progress import progress_bar

from .annealing_files import RunFile, batches_of, seed_from
from .annealing_path import AnnealingBase
from .annealing_schedule import AnnealedSampler, AnnealingSchedule, resampled

__all__ = ["SequentialMonteCarlo", "SequentialRun"]


class SequentialRun(NamedTuple):
    """What a run yields."""

    log_ratio: Float[Tensor, " group"]
    r"""$\log \hat Z / Z_{base}$ of each group, float64; groups are independent, and the mean of $\hat Z$ unbiased."""
    x: Float[Tensor, "group particle *event"]
    """Where the particles ended, in the data's units."""
    log_weights: Float[Tensor, "group particle"]
    """Their weights as draws of the model, normalised in each group."""
    ess: Float[Tensor, "group temperature"]
    """Effective sample size when each temperature was reached, as a share of the particles."""
    acceptance: Float[Tensor, " temperature"]
    """Mean acceptance rate of the kernel at each temperature."""


class SequentialMonteCarlo(AnnealedSampler):
    r"""Carries a population from a base density to the model, and replaces particles of small weight by others.

    At each temperature weights are multiplied by $u = e^{(\beta_k - \beta_{k-1}) (E_{base} - E)}$; $\log Z / Z_{base}$
    grows by the logarithm of the mean of u under the weights; where weights have become uneven, particles are resampled
    by them; then the kernel moves at $\beta_k$. The choice over `AnnealedImportanceSampling` where single paths are too
    long to stay near the densities: errors grow with the number of temperatures, not exponentially, and the particles
    end as draws of the model.

    Args:
        kernel: A sampler of the model that has an accept test, such as `HamiltonianMonteCarlo`.
        base: Where paths begin: a model with `log_z` and `sample`, in the data's units, or what `gaussian_base`
            returns; left out, the standard normal in the coordinates that the kernel walks in.
        n_steps: Transitions at each temperature. Of a waste-free run, how many points each chain leaves behind, its
            first one included: 2 or more.
        step_spread: The transitions at one temperature use step sizes from the tuned one down to it divided by this, in
            geometric steps: for densities whose scale differs from place to place, as a funnel's does.
        resampling: `"systematic"`, one uniform a group, or `"multinomial"`.
        ess_threshold: A group is resampled where its effective sample size is less than this share of its particles.
        waste_free: Resample few, `n_particles / n_steps`, and keep all the points that the kernel passes through as the
            next population.

    Note:
        Temperatures and kernels come from `tune` or `untuned`, and do not change in a run; hence $\hat Z$ is unbiased
        for any number of particles. Its logarithm is, in expectation, too small. Groups do not exchange particles: how
        they scatter tells the error of their mean.

    References: Del Moral, Doucet & Jasra (2006), https://doi.org/10.1111/j.1467-9868.2006.00553.x; Dau & Chopin (2022),
    https://doi.org/10.1111/rssb.12475

    Example:
        >>> from torchebm.core import GaussianModel
        >>> from torchebm.samplers import HamiltonianMonteCarlo
        >>> model = GaussianModel(torch.ones(2), 0.25 * torch.eye(2))
        >>> smc = SequentialMonteCarlo(HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=5))
        >>> generator = torch.Generator().manual_seed(0)
        >>> run = smc.run(100, smc.tune(100, generator=generator), n_groups=8, generator=generator)
        >>> bool((smc.base.log_z + run.log_ratio.mean() - model.log_z).abs() < 0.1), run.x.shape
        (True, torch.Size([8, 100, 2]))
    """

    def __init__(self, kernel: MarkovSampler, base: BaseModel | AnnealingBase | None = None, *, n_steps: int = 1,
                 step_spread: float = 1.0, resampling: Literal["systematic", "multinomial"] = "systematic",
                 ess_threshold: float = 0.5, waste_free: bool = False) -> None:  # fmt: skip
        super().__init__(kernel, base, n_steps=n_steps, step_spread=step_spread)
        if resampling not in ("systematic", "multinomial"):
            raise ValueError(f'resampling must be "systematic" or "multinomial"; got {resampling!r}.')
        if waste_free and n_steps < 2:
            raise ValueError("a waste-free run keeps the points along chains of n_steps: give n_steps=2 or more.")
        self.resampling = resampling
        self.ess_threshold = number("ess_threshold", ess_threshold, at_least=0.0, at_most=1.0)
        self.waste_free = bool(waste_free)

    @torch.no_grad()
    def run(self, n_particles: int, schedule: AnnealingSchedule, *, n_groups: int = 1, batch_size: int | None = None,
            generator: torch.Generator | None = None, progress: bool = False,
            checkpoint: str | Path | None = None, save_every: float = 60.0) -> SequentialRun:  # fmt: skip
        """Runs populations from the base to the model.

        Args:
            n_particles: Of each group; of a waste-free run, a multiple of `n_steps`.
            schedule: Temperatures and kernels.
            n_groups: Independent populations.
            batch_size: Particles at a time, in whole groups; all of them if left out. Each batch has a stream of its
                own.
            generator: Source of randomness.
            progress: Show a progress bar.
            checkpoint: A `.safetensors` file that the run is saved to and, if it exists, continued from, bit for bit.
            save_every: Seconds between savings.

        Raises:
            ValueError: If a group is left without any weight, or the file is of another run.
        """
        n, n_groups = integer("n_particles", n_particles, at_least=2), integer("n_groups", n_groups, at_least=1)
        if self.waste_free and n % self.n_steps:
            raise ValueError(f"n_particles={n} of a waste-free run must be a multiple of n_steps={self.n_steps}.")
        at_once = n_groups if batch_size is None else integer("batch_size", batch_size, at_least=1) // n
        if at_once == 0:
            raise ValueError(f"batch_size={batch_size} is less than n_particles={n}, which are one group: resampling "
                             "needs a group at once.")  # fmt: skip
        sizes = batches_of(n_groups, at_once)
        file = RunFile(checkpoint, save_every, seed_from(generator, self.kernel.device), {
            "kind": "sequential Monte Carlo", "n_particles": n, "batches": sizes, "betas": list(schedule.betas),
            "n_steps": self.n_steps, "resampling": self.resampling, "ess_threshold": self.ess_threshold,
            "waste_free": self.waste_free, "step_spread": self.step_spread,
        }, self.kernel.device)  # fmt: skip
        with (
            evaluating(self.kernel.model), evaluating(self.path), self.lent(),
            progress_bar(progress, len(sizes) * len(schedule), "SMC") as tick,
        ):  # fmt: skip
            for b, size in enumerate(sizes):
                if file.has(b):
                    tick(len(schedule))
                    continue
                file.done(b, self._batch(b, size, n, schedule, file, tick))
        log_ratio, log_weights, ess, x, rates = (torch.cat(leaf) for leaf in zip(*file.results(), strict=True))
        lost = int((~log_ratio.isfinite()).sum())
        if lost:
            raise ValueError(
                f"{lost} of {n_groups} groups were left without any weight, or met energies that are NaN or -inf: give "
                "groups more particles, or choose a base that overlaps the model more."
            )
        shares = torch.tensor(sizes, dtype=rates.dtype).to(rates.device) / n_groups
        rates = (rates.view(len(sizes), -1) * shares.unsqueeze(1)).sum(0)
        return SequentialRun(log_ratio, self.to_user(x).unflatten(0, (n_groups, n)), log_weights, ess, rates)

    @torch.no_grad()
    def continued(self, run: SequentialRun, schedule: AnnealingSchedule, n_steps: int, *,
                  batch_size: int | None = None, generator: torch.Generator | None = None,
                  progress: bool = False) -> Float[Tensor, " particle *event"]:  # fmt: skip
        """Draws of the model: the particles of a run, resampled by their weights, after more transitions.

        Args:
            run: What `run` returned.
            schedule: What it was run with; its last kernel moves.
            n_steps: Transitions of each particle.
            batch_size: Particles at a time.
            generator: Source of randomness.
            progress: Show a progress bar.

        Returns:
            As many draws as there are particles, in the data's units. They are not quite independent: some have
            ancestors in common.
        """
        n_steps = integer("n_steps", n_steps, at_least=1)
        index = resampled(run.log_weights, run.x.shape[1], self.resampling, generator)
        x = self.from_user(run.x[torch.arange(len(index), device=index.device).unsqueeze(1), index].flatten(0, 1))
        sizes, ends = batches_of(len(x), batch_size), []
        with (
            evaluating(self.kernel.model), evaluating(self.path), self.lent(),
            progress_bar(progress, len(sizes), "chains at β = 1") as tick,
        ):  # fmt: skip
            for some in x.split(sizes):
                target = self.target(some, 1.0)
                state = self.begin(None, some, None, target, generator)
                state, _ = self.move(state, schedule.kernels[-1], target, 0, n_steps, generator)
                ends.append(self.to_user(state.x))
                tick()
        return torch.cat(ends)

    def _batch(self, b: int, n_groups: int, n: int, schedule: AnnealingSchedule, file: RunFile,
               tick: Callable[..., None]) -> tuple[Tensor, ...]:  # fmt: skip
        """Log ratios, weights, effective sample sizes, last points and acceptance rates of some groups."""
        generator, betas = file.stream(b), schedule.betas
        saved = file.resume(b, generator)
        if saved is None:
            x, first, state = self.draw(n_groups * n, generator), 1, None
            log_weights = x.new_full((n_groups, n), 1 / n, dtype=torch.float64).log()
            log_ratio = x.new_zeros(n_groups, dtype=torch.float64)
            ess, rates = log_ratio.new_zeros(n_groups, 0), log_ratio.new_zeros(0)
        else:
            first, (log_weights, log_ratio, ess, rates, *leaves) = saved
            x = leaves[0]
            kind = type(self.kernel.init(x, self.target(x, betas[first - 1]), file.stream(b)))
            state = kind(*leaves)
            tick(first - 1)
        for k in range(first, len(betas)):
            target = self.target(x)
            parts = target.parts(x, self.kernel.needs_gradient)
            log_weights = log_weights + (betas[k] - betas[k - 1]) * parts.gap().view(n_groups, n)
            growth = log_weights.logsumexp(1)
            log_ratio, log_weights = log_ratio + growth, log_weights - growth.unsqueeze(1)
            left = torch.exp(-(2 * log_weights).logsumexp(1)) / n  # [group], the effective sample size
            ess = torch.cat([ess, left.unsqueeze(1)], 1)
            index, log_weights = self._resample(log_weights, left, generator)
            x = x[index]
            target = target.at(self.beta(betas[k], x), x, parts.gather(index))
            state = self.begin(state, x, index, target, generator)
            start = (k - 1) * self.n_steps
            if self.waste_free:
                passed = [state]
                _, rate = self.move(state, schedule.kernels[k - 1], target, start, self.n_steps - 1, generator,
                                    keep=passed)  # fmt: skip
                leaves = zip(*passed, strict=True)  # of each, what it was along the chains, [group * chain, ...]
                state = type(state)(*(torch.stack(leaf, 1).flatten(0, 1) for leaf in leaves))
            else:
                state, rate = self.move(state, schedule.kernels[k - 1], target, start, self.n_steps, generator)
            x, rates = state.x, torch.cat([rates, rate.view(1)])
            file.save(b, k + 1, (log_weights, log_ratio, ess, rates, *state), generator)
            tick()
        return log_ratio, log_weights, ess, x, rates

    def _resample(self, log_weights: Float[Tensor, "group particle"], left: Float[Tensor, " group"],
                  generator: torch.Generator | None) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Indices into all particles, and the weights that are left; one draw a group, whether it is used or not."""
        n_groups, n = log_weights.shape
        here = n // self.n_steps if self.waste_free else n
        index = resampled(log_weights, here, self.resampling, generator)
        even = torch.full_like(log_weights, 1 / n).log()
        if self.waste_free:
            log_weights = even
        else:
            uneven = (left < self.ess_threshold).unsqueeze(1)
            index = torch.where(uneven, index, torch.arange(n, device=index.device))
            log_weights = torch.where(uneven, even, log_weights)
        return (index + n * torch.arange(n_groups, device=index.device).unsqueeze(1)).flatten(), log_weights
