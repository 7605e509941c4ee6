"""log Z of a model, by the method that is asked for."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchebm.core.analytic import UniformModel
from torchebm.core.checks import integer, warn_caller
from torchebm.core.markov import MarkovSampler
from torchebm.core.model import BaseModel, as_model, evaluating
from torchebm.core.random import check_generator, generator_for, randperm
from torchebm.samplers import (
    AnnealedImportanceSampling,
    AnnealingBase,
    AnnealingSchedule,
    HamiltonianMonteCarlo,
    SequentialMonteCarlo,
    gaussian_base,
    load_schedule,
    save_schedule,
)
from torchebm.samplers.annealing_files import read_tensors, seed_from, write_tensors
from torchebm.samplers.annealing_path import ReshapedModel

from .bridge import bridge_sampling
from .estimates import LogZ, NormalizerWarning, annealed_log_z, grouped_log_z
from .tails import check_tails as check_tails_of

__all__ = ["log_z"]

Method = Literal["ais", "smc", "bridge"]

_AIS_REFINEMENT, _SMC_REFINEMENT = 10, 2  # temperatures of the run for each of the pilot's
_FEWEST_EFFECTIVE = 20.0
_WIDEST_GAP = 1.0


def log_z(model: BaseModel | nn.Module, method: Method = "ais", *, data: Float[Tensor, " n *event"] | None = None,
          samples: Float[Tensor, " n *event"] | None = None,
          trajectory: Float[Tensor, "chain draw *event"] | None = None, base: BaseModel | AnnealingBase | None = None,
          kernel: MarkovSampler | None = None, n_particles: int = 1000, n_temperatures: int | None = None,
          n_steps: int = 1, step_spread: float = 1.0, schedule: AnnealingSchedule | None = None,
          conditional_ess: float = 0.9, n_pilot: int = 256, n_groups: int = 10, reverse: bool = True,
          n_long_run: int = 200, batch_size: int | None = None, check_tails: bool = True,
          generator: torch.Generator | None = None, progress: bool = False,
          checkpoint: str | Path | None = None) -> LogZ:  # fmt: skip
    r"""Estimates $\log Z = \log \int e^{-E(x)} dx$, in nats, with a 95 % interval.

    Args:
        model: The energy. The integral is over the data's own units, also where samplers walk in other coordinates.
        method: `"ais"`, annealed importance sampling, forward and in reverse; `"smc"`, sequential Monte Carlo;
            `"bridge"`, bridge sampling between draws of the model and a Gaussian.
        data: Points near the model's mass: a Gaussian fitted to them is the base.
        samples: Independent draws of the model: reverse runs and bridges start from them. Without `data` and `base`,
            the base is fitted to one half of them, and the other half is started from.
        trajectory: Instead, draws of chains that have reached the model, in ArviZ's order; intervals then allow for the
            dependence within chains.
        base: Where annealing begins, or what the bridge leads to: a model with `log_z` and `sample`, in the data's
            units. With `UniformModel`, the integral is over its box. The standard normal, in the coordinates that
            samplers walk in, if nothing else is given.
        kernel: A sampler of the model with an accept test; `HamiltonianMonteCarlo` of five leapfrog steps if left out.
        n_particles: In all; of a bridge, draws from each side.
        n_temperatures: The pilot run's ladder is refined to so many; 10 times as many as it found if left out, twice
            as many for SMC.
        n_steps: Transitions at each temperature.
        step_spread: Of `AnnealedImportanceSampling`.
        schedule: Temperatures and tuned kernels from an earlier `tune`, used as they are: no pilot run.
        conditional_ess: Of the pilot run, see `tune`.
        n_pilot: Particles of the pilot run.
        n_groups: Independent populations that `n_particles` are divided into, for SMC.
        reverse: Whether AIS runs in reverse too, for the upper bound.
        n_long_run: Transitions that draws of the model are given, after sequential Monte Carlo has brought them there,
            where no samples are given but needed.
        batch_size: Particles at a time.
        check_tails: Whether to refuse energies that do not confine the density, see `check_tails` of
            `torchebm.evaluation`. It is not done where the base is a box.
        generator: Source of randomness.
        progress: Show progress bars.
        checkpoint: A folder of this estimate alone; what was computed is kept there, and a run that was killed goes
            on, bit for bit.

    Returns:
        The estimate, its interval, and for AIS both bounds; `print` it.

    Raises:
        UnboundedEnergyError: If there is no normaliser.
        ValueError: If the base hardly overlaps the model, weights are not finite, arguments make no sense, or
            `checkpoint` is of another model, other data or other settings.

    Warns:
        NormalizerWarning: If the bounds are more than 1 nat apart, or cross by more than their intervals, if few
            particles carry the weight, or a bridge's interval is more than 1 nat wide. The same is in `notes`.

    Note: temperatures, step sizes and masses are found by a pilot run with random numbers of its own, and then frozen,
        so that the mean weight is an unbiased estimate of $Z / Z_{base}$. The upper bound is one if the reverse run
        starts from draws of the model; long runs of chains are that only as far as they have converged, which `notes`
        recalls.

    References: Neal (2001), https://doi.org/10.1023/A:1008923215028; Grosse, Ghahramani & Adams (2015),
    https://arxiv.org/abs/1511.02543; Gronau et al. (2017), https://doi.org/10.1016/j.jmp.2017.09.005

    Example:
        >>> from torchebm.core import GaussianMixtureModel
        >>> model = GaussianMixtureModel(means=[[-2.0, 0.0], [2.0, 0.0]], scales=0.5)  # normalised: log Z = 0
        >>> generator = torch.Generator().manual_seed(0)
        >>> found = log_z(model, samples=model.sample(1000, generator=generator), n_particles=500, generator=generator)
        >>> abs(found.estimate) < 0.2 and found.gap < 0.2
        True
    """
    model = as_model(model)
    n_particles, n_groups = integer("n_particles", n_particles, at_least=2), integer("n_groups", n_groups, at_least=2)
    if method not in ("ais", "smc", "bridge"):
        raise ValueError(f'method must be "ais", "smc" or "bridge"; got {method!r}.')
    if samples is not None and trajectory is not None:
        raise TypeError("give samples or trajectory, not both: draws are independent, or of chains.")
    if kernel is None:
        kernel = HamiltonianMonteCarlo(model, n_leapfrog_steps=5)
    elif kernel.model is not model:
        raise ValueError("kernel must be a sampler of the model whose normaliser is asked for; it has another model.")
    check_generator(generator, kernel.device)
    folder = Stages(checkpoint, seed_from(generator, kernel.device), kernel.device)
    data, samples, trajectory = (
        None if t is None else t.detach().to(device=kernel.device, dtype=kernel.dtype)
        for t in (data, samples, trajectory)
    )
    n_chains = None
    if trajectory is not None:
        samples, n_chains = trajectory.flatten(0, 1), len(trajectory)
    near = data if data is not None else samples
    if check_tails and _box_of(base) is None:
        check_tails_of(model, near, generator=folder.stream("tails"))
    draws = samples
    fits_base = base is None and data is None
    if fits_base and samples is not None:
        fit, draws, n_chains = _halves(samples, trajectory, folder.stream("halves"))
        base = gaussian_base(model, fit)
    elif base is None:
        base = gaussian_base(model, data)
    options: dict[str, Any] = {"progress": progress, "batch_size": batch_size}

    shape = {"n_steps": n_steps, "step_spread": step_spread}
    ais, smc = AnnealedImportanceSampling(kernel, base, **shape), SequentialMonteCarlo(kernel, base, **shape)
    folder.check_same(ais, {"data": data, "samples": samples}, {
        **shape, "conditional_ess": conditional_ess, "n_pilot": n_pilot, "n_long_run": n_long_run,
    })  # fmt: skip
    notes = [] if _box_of(base) is None else ["of the model inside the box that is its base"]
    if method == "bridge" and draws is not None:
        return _bridge(ais, draws, n_chains, n_particles, batch_size, notes, folder.stream("bridge"))

    coarse = schedule or folder.schedule(
        lambda own: ais.tune(n_pilot, conditional_ess=conditional_ess, generator=own, progress=progress)
    )
    if schedule is not None and n_temperatures is None:
        fine = schedule
    else:
        times = _AIS_REFINEMENT if method == "ais" else _SMC_REFINEMENT
        fine = coarse.refined(times * len(coarse) if n_temperatures is None else n_temperatures)
    if method == "smc":
        return _sequential(smc, fine, n_particles, n_groups, notes, folder, options)
    if draws is None and (method == "bridge" or reverse):
        draws = folder.draws(lambda own: _long_run(smc, coarse, n_particles, n_long_run, own, options))
        notes.append(f"draws of the model: sequential Monte Carlo, then {n_long_run} transitions each")
    if method == "bridge":
        if fits_base:
            fit, draws, _ = _halves(cast(Tensor, draws), None, folder.stream("halves"))
            ais = AnnealedImportanceSampling(kernel, gaussian_base(model, fit))
        return _bridge(ais, cast(Tensor, draws), None, n_particles, batch_size, notes, folder.stream("bridge"))
    return _annealed(ais, fine, n_particles, draws if reverse else None, n_chains, notes, folder, options)


def _annealed(ais: AnnealedImportanceSampling, schedule: AnnealingSchedule, n: int, draws: Tensor | None,
              n_chains: int | None, notes: list[str], folder: "Stages", options: dict[str, Any]) -> LogZ:  # fmt: skip
    """Forward, and from draws of the model in reverse."""
    forward = ais.run(n, schedule, generator=folder.stream("forward"), checkpoint=folder.file("forward"), **options)
    backward = None
    if draws is not None:
        draws = draws[:n] if n_chains is None else draws
        backward = ais.run(len(draws), schedule, start=draws, generator=folder.stream("reverse"),
                           checkpoint=folder.file("reverse"), **options).log_weights  # fmt: skip
    found = annealed_log_z(forward.log_weights, ais.base.log_z, reverse=backward, n_chains=n_chains, notes=tuple(notes),
                           n_temperatures=len(schedule), generator=folder.stream("bootstrap"))  # fmt: skip
    return _with_warnings(replace(found, box=_box_of(ais.base)))


def _sequential(smc: SequentialMonteCarlo, schedule: AnnealingSchedule, n: int, n_groups: int, notes: list[str],
                folder: "Stages", options: dict[str, Any]) -> LogZ:  # fmt: skip
    """Groups of a population, and their mean."""
    each = n // n_groups
    run = smc.run(each, schedule, n_groups=n_groups, generator=folder.stream("smc"), checkpoint=folder.file("smc"),
                  **options)  # fmt: skip
    bound = grouped_log_z(run.log_ratio, smc.base.log_z)
    least = float(run.ess.min(1).values.mean()) * each * n_groups
    found = LogZ(bound.estimate, bound.interval, "sequential Monte Carlo", ess=least, n_particles=each * n_groups,
                 n_temperatures=len(schedule), notes=tuple(notes), box=_box_of(smc.base))  # fmt: skip
    return _with_warnings(found)


def _bridge(path: AnnealedImportanceSampling, draws: Tensor, n_chains: int | None, n: int, batch_size: int | None,
            notes: list[str], generator: torch.Generator) -> LogZ:  # fmt: skip
    """Between the base and draws of the model, in the coordinates that the kernel walks in."""
    z, y = path.from_user(draws if n_chains is not None else draws[:n]), path.draw(n, generator)
    size = max(len(z), n) if batch_size is None else batch_size
    with torch.no_grad(), evaluating(path.kernel.model), evaluating(path.path):

        def log_ratio(points: Tensor) -> Tensor:
            """Of densities, that of the base being normalised."""
            gaps = [path.target(some).parts(some, False).gap() for some in points.split(size)]
            return torch.cat(gaps) + path.base.log_z

        at_model, at_base = log_ratio(z), log_ratio(y)
    found = bridge_sampling(at_model if n_chains is None else at_model.view(n_chains, -1), at_base)
    width = found.interval[1] - found.interval[0]
    if width > _WIDEST_GAP:
        notes = [*notes, f"the interval is {width:.2f} nats wide, too wide for its formula to hold: anneal instead."]
        warn_caller(notes[-1], NormalizerWarning)
    return LogZ(found.log_ratio, found.interval, "bridge sampling", ess=found.ess, n_particles=len(z) + n,
                notes=tuple(notes))  # fmt: skip


def _long_run(smc: SequentialMonteCarlo, schedule: AnnealingSchedule, n: int, n_steps: int,
              generator: torch.Generator, options: dict[str, Any]) -> Tensor:  # fmt: skip
    """Draws of the model: a population, resampled by its weights, then chains that go on from there."""
    each = n if options["batch_size"] is None else min(n, options["batch_size"])
    run = smc.run(each, schedule, n_groups=-(-n // each), generator=generator, **options)
    return smc.continued(run, schedule, n_steps, generator=generator, **options)[:n]


def _halves(samples: Tensor, trajectory: Tensor | None,
            generator: torch.Generator) -> tuple[Tensor, Tensor, int | None]:  # fmt: skip
    """What a Gaussian is fitted to, and the rest: of chains, the first and the second half of their draws."""
    if trajectory is None:
        index = randperm(len(samples), generator=generator, device=generator.device).to(samples.device)
        some, others = samples[index[: len(samples) // 2]], samples[index[len(samples) // 2 :]]
        return some, others, None
    n = trajectory.shape[1] // 2
    if n == 0:
        raise ValueError("a trajectory needs two draws a chain or more; the first half is for fitting the base.")
    return trajectory[:, :n].flatten(0, 1), trajectory[:, n:].flatten(0, 1), len(trajectory)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b.to(a), 1e-4, 1e-4, equal_nan=True)


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def _box_of(base: object) -> UniformModel | None:
    density = base.density if isinstance(base, AnnealingBase) else base
    density = density.inner if isinstance(density, ReshapedModel) else density
    return density if isinstance(density, UniformModel) else None


def _with_warnings(found: LogZ) -> LogZ:
    """The estimate, with what is wrong with it among its notes, and warnings that say so."""
    wrong = []
    if found.ess is not None and found.n_particles is not None and found.ess < _FEWEST_EFFECTIVE:
        wrong.append(f"the weights are worth {found.ess:.1f} of {found.n_particles} particles, so that the interval is "
                     "too narrow: more temperatures (n_temperatures=), or a better base.")  # fmt: skip
    if found.gap is not None and found.lower is not None and found.upper is not None:
        if found.gap > _WIDEST_GAP:
            wrong.append(f"the bounds are {found.gap:.2f} nats apart: more temperatures (n_temperatures=) or "
                         "transitions (n_steps=) bring them together.")  # fmt: skip
        if found.upper.interval[1] < found.lower.interval[0]:
            wrong.append("the upper bound lies below the lower one: the reverse run did not start from draws of the "
                         "model, or a part of it is missed by one of the runs.")  # fmt: skip
    for line in wrong:
        warn_caller(line, NormalizerWarning)
    return replace(found, notes=(*found.notes, *wrong))


class Stages:
    """The stages of one estimate: each with a stream of its own, and with a file if there is a folder.

    Args:
        folder: Where files are kept.
        seed: Of the streams; that in the folder wins.
        device: Of the streams.
    """

    def __init__(self, folder: str | Path | None, seed: int, device: torch.device) -> None:
        self.folder, self.seed, self.device = None if folder is None else Path(folder), seed, device
        if self.folder is None:
            return
        kept = self.folder / "seed.safetensors"
        if kept.exists():
            self.seed = read_tensors(kept)[1]["seed"]
        else:
            write_tensors(kept, {"seed": torch.tensor(seed)}, {"seed": seed})

    @torch.no_grad()
    def check_same(self, ais: AnnealedImportanceSampling, points: dict[str, Tensor | None],
                   settings: dict[str, Any]) -> None:  # fmt: skip
        """Refuses a folder that is of another model, base, data or settings than these."""
        file = self.file("estimate")
        if file is None:
            return
        what = settings | {name: None if x is None else _digest(x) for name, x in points.items()}
        x = ais.draw(16, self.stream("probes"))
        with evaluating(ais.kernel.model), evaluating(ais.path):
            energies = ais.target(x).parts(x, False).model
        if not file.exists():
            write_tensors(file, {"base": x, "model": energies}, what)
            return
        tensors, theirs = read_tensors(file)
        other = [name for name, value in what.items() if theirs.get(name) != value]
        if not _alike(x, tensors["base"]):
            other.append("base")
        elif not _alike(energies, tensors["model"]):  # which are those at the same points
            other.append("model")
        if other:
            raise ValueError(
                f"{self.folder} was saved by another estimate: {', '.join(other)} differ. Remove the folder, or give "
                "the arguments that it was made with."
            )

    def stream(self, name: str) -> torch.Generator:
        """The generator of a stage."""
        return generator_for(self.seed, name, device=self.device)

    def file(self, name: str) -> Path | None:
        """Where a stage is kept."""
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def schedule(self, tune: Callable[[torch.Generator], AnnealingSchedule]) -> AnnealingSchedule:
        """From its file, or tuned now."""
        file = self.file("schedule")
        if file is not None and file.exists():
            return load_schedule(file)
        schedule = tune(self.stream("schedule"))
        if file is not None:
            save_schedule(file, schedule)
        return schedule

    def draws(self, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        """From their file, or made now."""
        file = self.file("draws")
        if file is not None and file.exists():
            return read_tensors(file)[0]["draws"].to(self.device)
        draws = make(self.stream("draws"))
        if file is not None:
            write_tensors(file, {"draws": draws}, {})
        return draws
