"""ChEES: paths of the length that is said, a gradient as in the formula, and a length near the best there is."""

import math

import pytest
import scipy.stats
import torch

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, LinearScheduler, Target
from torchebm.samplers import ChEESHamiltonianMonteCarlo
from torchebm.samplers.chees import PathLengthWarmup
from torchebm.samplers.hamiltonian import radical_inverse

F64 = torch.float64


def normal(cov):
    return GaussianModel(torch.zeros(len(cov), dtype=F64), cov)


def correlated(d, r):
    return r * torch.ones(d, d, dtype=F64) + (1 - r) * torch.eye(d, dtype=F64)


# transitions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3, 1000])
def test_every_transition_takes_the_steps_that_its_number_says(limit, counting_model, generator):
    sampler = ChEESHamiltonianMonteCarlo(counting_model, 0.3, 2.2, max_leapfrog_steps=limit)
    expected = [min(limit, math.ceil(radical_inverse(k) * 2.2 / 0.3)) for k in range(1, 31)]
    _, state = sampler.sample(torch.zeros(3, 2), n_steps=20, generator=generator, return_state=True)
    assert counting_model.gradients == 1 + sum(expected[:20])
    sampler.sample(state=state, n_steps=10, generator=generator)
    assert counting_model.gradients == 2 + sum(expected)
    assert len(set(expected)) > 2


def test_the_longest_path_may_follow_a_schedule():
    sampler = ChEESHamiltonianMonteCarlo(HarmonicModel(), 0.3, LinearScheduler(4.0, 2.0, 2))
    assert sampler.parameter_table(0, 3)["path_length"] == [4.0 / 2, 3.0 / 4, 2.0 * 3 / 4]


@pytest.mark.parametrize("mass", [None, torch.tensor([0.5, 4.0], dtype=F64)], ids=["identity", "diagonal"])
def test_one_transition(mass, generator):
    """Against leapfrog written out; the proposal and its momentum are reported, accepted or not."""
    model, h = normal(correlated(2, 0.8)), 0.9
    sampler = ChEESHamiltonianMonteCarlo(model, mass=mass)
    x, target = torch.randn(30, 2, dtype=F64, generator=generator), Target(model)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    state = sampler.init(x, target, generator)
    new, info = sampler.step(state, noise, target, step_size=h, path_length=2.0)  # 3 steps
    M = torch.ones(2, dtype=F64) if mass is None else mass
    y, p = x, noise[0] * M.sqrt()
    before = model(x) + 0.5 * (p * p / M).sum(1)
    for _ in range(3):
        p = p - 0.5 * h * model.gradient(y)
        y = y + h * p / M
        p = p - 0.5 * h * model.gradient(y)
    log_ratio = before - model(y) - 0.5 * (p * p / M).sum(1)
    accepted = 1 - noise[1] < log_ratio.exp()
    torch.testing.assert_close(info.x, y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(info.p, p, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(new.x, torch.where(accepted.unsqueeze(1), y, x), rtol=1e-10, atol=1e-12)
    assert 0 < accepted.sum() < 30


# learning the length --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["identity", "diagonal", "dense"])
def test_the_gradient_is_that_of_the_formula(kind, generator):
    M = {"identity": torch.eye(3, dtype=F64), "diagonal": torch.diag(torch.tensor([0.5, 1.0, 4.0], dtype=F64)),
         "dense": correlated(3, 0.5)}[kind]  # fmt: skip
    given = {"identity": None, "diagonal": M.diagonal(), "dense": M}[kind]
    sampler = ChEESHamiltonianMonteCarlo(normal(correlated(3, 0.3)), mass=given, adapt_mass=None)
    x, target = torch.randn(12, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), PathLengthWarmup(sampler, 10)
    warmup.begin(state, target, generator)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    _, info = sampler.step(state, noise, target, step_size=1.0, path_length=3.0)
    live = torch.ones(12, dtype=torch.bool)
    live[3] = False
    info.diverging[5] = True
    info.x[5] = math.nan
    used = [i for i in range(12) if i not in (3, 5)]
    a, tau = info.acceptance_rate, warmup._path
    start = sum(x[i] for i in used) / len(used)
    end = sum(a[i] * info.x[i] for i in used) / sum(a[i] for i in used)
    expected = 0.0
    for i in used:
        before, after = x[i] - start, info.x[i] - end
        expected += a[i] * tau * (after @ M @ after - before @ M @ before) * (after @ info.p[i])
    expected = expected / sum(a[i] for i in used)
    torch.testing.assert_close(warmup._gradient(info, live), expected, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_the_slope_of_the_criterion(generator):
    """Without rejections, from the target: over many chains it is the derivative of the criterion by log T."""
    lengths = torch.tensor([0.5, 2.0], dtype=F64)
    sampler = ChEESHamiltonianMonteCarlo(normal(lengths.square().diag()), adapt_mass=None)
    x, target = torch.randn(200_000, 2, dtype=F64, generator=generator) * lengths, Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), PathLengthWarmup(sampler, 10)
    warmup.begin(state, target, generator)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    sampler.draw(noise, generator)
    for tau in (0.8, 2.0, 4.0):
        warmup._path = tau
        _, info = sampler.step(state, noise, target, step_size=0.02, path_length=tau - 1e-9)
        slope = float(warmup._gradient(info, torch.ones(len(x), dtype=torch.bool)))
        # ¼ E (|x'|² - |x|²)² = sum l⁴ sin²(t / l), for widths l
        exact = tau * float((lengths**3 * torch.sin(2 * tau / lengths)).sum())
        assert slope == pytest.approx(exact, abs=0.35)


def best_length(cov):
    """Where the criterion, averaged over u T with u uniform, has its first maximum, on normal densities."""
    scale = torch.linalg.eigvalsh(cov / torch.outer(cov.diagonal(), cov.diagonal()).sqrt()).sqrt()  # in masses' units
    T = torch.linspace(0.5, 30, 20_000, dtype=F64).unsqueeze(1)
    value = (scale**4 * (0.5 - torch.sin(2 * T / scale) / (4 * T / scale))).sum(1)
    return float(T[value.argmax()])


@pytest.mark.parametrize(("d", "r"), [(10, 0.9), (10, 0.99), (50, 0.5)])
def test_the_length_is_near_the_best_for_correlated_normals(d, r, generator):
    scale = torch.logspace(-2, 2, d, dtype=F64).diag()
    cov = scale @ correlated(d, r) @ scale
    sampler = ChEESHamiltonianMonteCarlo(normal(cov))
    sampler.warm_up(n_samples=64, n_steps=500, generator=generator)
    assert sampler.path_length == pytest.approx(best_length(cov), rel=0.25)
    assert sampler.tuning["path_length"] == sampler.path_length


def test_the_rate_is_the_harmonic_mean_of_the_chains_that_go_on():
    class Info:
        acceptance_rate = torch.tensor([0.5, 1.0, 0.25, 0.0, 0.9])
        diverging = torch.tensor([False, False, False, True, False])

    sampler = ChEESHamiltonianMonteCarlo(HarmonicModel())
    warmup = PathLengthWarmup(sampler, 10)
    warmup._x, warmup._ends = torch.zeros(5, 1), []  # the final phase
    live = torch.tensor([True, True, True, True, False])
    assert float(warmup.acceptance(Info, live)) == pytest.approx(3 / (2 + 1 + 4) * 3 / 4)
    Info.diverging = torch.ones(5, dtype=torch.bool)
    assert float(warmup.acceptance(Info, live)) == 0


def test_one_chain_cannot_warm_up_but_can_sample(generator):
    sampler = ChEESHamiltonianMonteCarlo(HarmonicModel(dim=2))
    for n_warmup in (5, 100):
        with pytest.raises(ValueError, match=r"needs two or more of them in its warm-up.*got 1"):
            sampler.sample(n_samples=1, n_warmup=n_warmup, generator=generator)
    assert sampler.sample(n_samples=1, n_steps=5, generator=generator).shape == (1, 2)
    sampler.sample(n_samples=2, n_steps=5, n_warmup=100, generator=generator)
    assert sampler.tuning is not None


def test_a_length_on_a_schedule_is_left_alone(generator):
    sampler = ChEESHamiltonianMonteCarlo(HarmonicModel(dim=2), path_length=lambda k: 2.0)
    sampler.sample(n_samples=4, n_steps=5, n_warmup=50, generator=generator)
    assert sampler.path_length == 2.0
    assert not hasattr(sampler.schedulers["path_length"], "start_value")
    assert sorted(sampler.tuning) == ["acceptance_rate", "mass", "n_restarted", "n_warmup", "step_size"]
    alone = ChEESHamiltonianMonteCarlo(HarmonicModel(dim=2), path_length=lambda k: 2.0)
    alone.sample(n_samples=1, n_steps=5, n_warmup=50, generator=generator)  # nothing to learn across chains
    assert alone.tuning["step_size"] == alone.step_size


LEFT_ALONE = {"scheduled": {"step_size": lambda k: 0.5 / (1 + k)}, "without a target": {"target_acceptance": None}}


@pytest.mark.parametrize("options", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_the_length_is_learned_at_a_step_size_that_is_left_alone(options, generator):
    given = {"step_size": 0.3} | options
    sampler = ChEESHamiltonianMonteCarlo(normal(torch.tensor([1.0, 100.0], dtype=F64).diag()), **given)
    before = sampler.schedulers["step_size"]
    sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    assert sampler.schedulers["step_size"] is before
    assert "step_size" not in sampler.tuning
    assert 1 < sampler.tuning["path_length"] == sampler.path_length < 6
    assert float(sampler.mass[0] / sampler.mass[1]) == pytest.approx(100, rel=0.3)
    fixed = ChEESHamiltonianMonteCarlo(HarmonicModel(dim=2), path_length=lambda k: 1.0, adapt_mass=None, **options)
    fixed.warm_up(n_samples=4, n_steps=30, generator=generator)
    assert fixed.tuning is None or "step_size" in fixed.tuning


def test_knobs_of_paths_of_fixed_length_do_not_exist():
    sampler = ChEESHamiltonianMonteCarlo(HarmonicModel())
    for name in ("n_leapfrog_steps", "jitter", "path_jitter", "momentum_refresh"):
        assert not hasattr(sampler, name)


def test_what_it_finds_leaves_a_density_as_it_is(gumbel, seeded, agrees, has_mean):
    """Exact draws stay exact draws; each comparison fails once in a million seeds."""
    sampler = ChEESHamiltonianMonteCarlo(gumbel)
    sampler.warm_up(5 * torch.randn(64, 3, dtype=F64, generator=seeded()), 200, generator=seeded(1))
    x = gumbel.sample(20_000, 3, generator=seeded(2))
    for n_steps in (1, 20):
        y, noted = sampler.sample(x, n_steps=n_steps, generator=seeded(3), return_diagnostics=True)
        agrees(y, gumbel.cdf)
        has_mean(y - x, 0.0)
        assert 0.6 < noted["acceptance_rate"].mean() < 0.999


def test_a_wall_and_a_half_space_without_energy(generator, agrees):
    """A Gamma density, NaN below zero; chains are thinned to near independence."""
    sampler = ChEESHamiltonianMonteCarlo(EnergyModel(lambda x: (x - 2 * x.log()).sum(-1)))
    x = 1 + torch.rand(512, 1, dtype=F64, generator=generator)
    y = sampler.sample(x, n_steps=400, n_warmup=300, thin=40, generator=generator, return_trajectory=True)
    assert (y > 0).all()
    agrees(y, scipy.stats.gamma(3).cdf)


REFUSED = [
    ({"max_leapfrog_steps": 0}, "max_leapfrog_steps must be at least 1"),
    ({"path_length": 0.0}, "path_length must be greater than 0"),
    ({"target_acceptance": 2.0}, "target_acceptance must be less"),
]


@pytest.mark.parametrize(("options", "match"), REFUSED, ids=lambda o: str(o)[:40])
def test_refused(options, match):
    with pytest.raises(ValueError, match=match):
        ChEESHamiltonianMonteCarlo(HarmonicModel(), **options)
