"""Learning rates that are ten times too high: such a run recovers, or stops and says why; none ends silently bad.

TORCHEBM_FULL_SIZE=1 trains on a density whose divergence is known by a grid, six seeds with each sampler: some twenty
minutes on one core. Otherwise one short run shows that the guards act.
"""

import math
import os
import time
import warnings

import pytest
import torch

from torchebm.core import CosineScheduler, HarmonicModel, StandardizedModel
from torchebm.core.random import generator_for
from torchebm.datasets import density
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.training import Trainer, TrainingDivergedError, TrainingWarning

FULL_SIZE = os.environ.get("TORCHEBM_FULL_SIZE") == "1"
N_SEEDS, N_STEPS = 6, 2500
TRUTH = density("eight_gaussians")


def hamiltonian(model):
    return HamiltonianMonteCarlo(model, 0.12, 6), {"k_steps": 2}


def langevin(model):
    return LangevinDynamics(model, 0.01), {"k_steps": 10}


def run(sampler, learning_rate, seed, n_steps=N_STEPS, out_dir=None, **options):
    """Trains; the trainer, what came of it, and the seconds that it took."""
    data = TRUTH.sample(20_000, generator_for(0, "data"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = StandardizedModel.from_data(MLPEnergy(2) + HarmonicModel(), data)
    sampler, chains = sampler(model)
    loss_fn = ContrastiveDivergence(model, sampler, persistent=True, buffer_size=2000, **chains)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.0, 0.999))
    trainer = Trainer(loss_fn, optimizer, learning_rate_schedule=CosineScheduler(1.0, 0.02, n_steps), ema_decay=0.998,
                      grad_clip_norm=1.0, seed=seed, checkpoint_every=500, out_dir=out_dir, **options)  # fmt: skip
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        try:
            outcome = trainer.fit(data, n_steps, 256, progress=False)
        except TrainingDivergedError as error:
            outcome = error
    return trainer, outcome, time.process_time() - began


def divergence(model, n_ticks=601):
    """KL(truth || model) in nats, with the normaliser by the rectangle rule over a box of three times the data's."""
    ticks = torch.linspace(-12, 12, n_ticks)
    with torch.no_grad():
        energies = torch.cat([model(points) for points in torch.cartesian_prod(ticks, ticks).split(50_000)]).double()
        log_z = torch.logsumexp(-energies, 0) + 2 * (ticks[1] - ticks[0]).log()
        fresh = TRUTH.sample(50_000, generator_for(1, "fresh"))
        return float(model(fresh).double().mean() + log_z + TRUTH.log_prob(fresh).mean())


@pytest.mark.skipif(not FULL_SIZE, reason="minutes: set TORCHEBM_FULL_SIZE=1")
@pytest.mark.parametrize(("sampler", "calm"), [(hamiltonian, 0.03), (langevin, 0.01)])
def test_no_run_ends_silently_bad(sampler, calm, tmp_path):
    """Recovered is a divergence of at most 1.5 times that of the calm runs, in the mean of their seeds."""
    calm_ones = [divergence(run(sampler, calm, seed)[1]) for seed in range(N_SEEDS)]
    limit = 1.5 * sum(calm_ones) / N_SEEDS
    print(f"\n{sampler.__name__}: calm {', '.join(f'{kl:.3f}' for kl in calm_ones)}; limit {limit:.3f}")
    bad = []
    for seed in range(N_SEEDS):
        folder = tmp_path / f"{seed}"
        trainer, outcome, seconds = run(sampler, 10 * calm, seed, out_dir=folder)
        acted = ", ".join(f"{event['event']} at {event['step']} ({event['guard']})" for event in trainer.events)
        if isinstance(outcome, TrainingDivergedError):
            print(f"  seed {seed}, {seconds:.0f} s: stopped; {acted}")
            assert list(folder.glob("forensics-*"))
            assert "guard" in str(outcome)
            continue
        kl = divergence(outcome)
        print(f"  seed {seed}, {seconds:.0f} s: {kl:.3f}; {acted or 'nothing was noticed'}")
        if not kl <= limit:
            bad.append((seed, kl))
    assert not bad, f"worse than {limit:.3f}: {bad}"


def test_a_learning_rate_that_is_too_high_is_noticed_and_lowered():
    """A short run: the gap is noticed, and what is left of it is an ordinary one."""
    trainer, outcome, _ = run(hamiltonian, 0.3, 0, n_steps=260, log_every=25)
    assert not isinstance(outcome, TrainingDivergedError)
    assert {event["event"] for event in trainer.events} == {"rollback"}
    assert trainer.events[0]["guard"] == "gap"
    assert trainer.events[0]["step"] <= 200
    assert trainer.metrics[-1]["gap_ratio"] < 4
    assert trainer.recovery.remedy.learning_rate <= 1 / 3
    assert math.isfinite(trainer.metrics[-1]["loss"])
