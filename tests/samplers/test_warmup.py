"""Warm-up: each part against what it should compute, and the whole on densities whose answer is known."""

import math
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributions.transforms import AffineTransform

from torchebm.core import EnergyModel, GaussianModel, HarmonicModel, LinearScheduler, Target, TransformedModel
from torchebm.samplers import (
    ChEESHamiltonianMonteCarlo,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    NoUTurnSampler,
)
from torchebm.samplers.estimation import DualAveraging, PooledMoments, find_step_size
from torchebm.samplers.warmup import Warmup, window_ends

F64 = torch.float64
WIDTHS = torch.logspace(-3, 3, 10, dtype=F64)


def normal(cov):
    return GaussianModel(torch.zeros(len(cov), dtype=F64), cov)


def correlated(d, r):
    return r * torch.ones(d, d, dtype=F64) + (1 - r) * torch.eye(d, dtype=F64)


@pytest.fixture(params=[HamiltonianMonteCarlo, ChEESHamiltonianMonteCarlo], ids=lambda cls: cls.__name__)
def hamiltonian(request):
    """`hamiltonian(model, **options)`, with paths that cannot be periods."""
    cls = request.param
    usual = {"jitter": 0.3} if cls is HamiltonianMonteCarlo else {}
    return lambda model, **options: cls(model, **(usual | options))


# the parts ------------------------------------------------------------------------------------------------------------


def test_dual_averaging_follows_its_formula(generator):
    rates = torch.rand(40, dtype=F64, generator=generator)
    averaging = DualAveraging(0.3, 0.8, rates)
    assert float(averaging.step_size) == pytest.approx(0.3, rel=1e-12)
    error = log_average = 0.0
    for t, rate in enumerate(rates.tolist(), 1):
        averaging.update(rates[t - 1])
        error = (1 - 1 / (t + 10)) * error + (0.8 - rate) / (t + 10)
        log_step = math.log(10 * 0.3) - math.sqrt(t) / 0.05 * error
        log_average = t**-0.75 * log_step + (1 - t**-0.75) * log_average
        assert float(averaging.step_size) == pytest.approx(math.exp(log_step), rel=1e-10)
        assert float(averaging.average) == pytest.approx(math.exp(log_average), rel=1e-10)


@pytest.mark.parametrize("target", [0.3, 0.8])
def test_dual_averaging_finds_where_a_rate_is_met(target, generator):
    """Rates exp(-h) with noise: h = -log(target)."""
    averaging = DualAveraging(5.0, target, torch.zeros(1))
    for noise in torch.randn(2000, dtype=F64, generator=generator):
        averaging.update((-averaging.step_size).exp() + 0.05 * noise)
    assert float(averaging.average) == pytest.approx(-math.log(target), rel=0.1)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_pooled_moments_are_those_of_all_draws(dense, dtype, generator):
    draws = 1000 + torch.randn(7, 5, 2, 3, generator=generator, dtype=dtype)  # [draw, chain, *event], far from 0
    live = torch.rand(7, 5, generator=generator) < 0.7
    live[2] = False
    moments = PooledMoments(draws[0], dense)
    for x, mask in zip(draws, live, strict=True):
        moments.add(x, mask)
    expected = draws[live].flatten(1).double()
    assert int(moments.count) == len(expected)
    torch.testing.assert_close(moments.mean, expected.mean(0), rtol=1e-12, atol=0)
    covariance = expected.T.cov()
    torch.testing.assert_close(moments.covariance, covariance if dense else covariance.diagonal(), rtol=1e-8, atol=1e-8)


def test_the_first_step_size_is_the_largest_power_that_is_accepted():
    tried = []

    def acceptance(h):
        tried.append(h)
        return math.exp(-h)

    assert find_step_size(acceptance, 0.001, 0.8) == 0.001 * 2**7  # -log 0.8 = 0.223
    assert find_step_size(acceptance, 100.0, 0.8) == 100 / 2**9
    assert tried == [0.001 * 2**k for k in range(9)] + [100 / 2**k for k in range(10)]


@pytest.mark.parametrize(
    ("rate", "match"), [(1.0, "flat, or unbounded"), (0.0, "not to be a function"), (math.nan, "")]
)
def test_no_step_size(rate, match):
    with pytest.raises(ValueError, match="warm-up found no step size between.*" + match):
        find_step_size(lambda h: rate, 1.0, 0.8)


def test_windows():
    assert window_ends(1000, 1) == [75, 100, 150, 250, 450, 950]  # Stan's
    assert window_ends(19, 64) == []
    for n in range(20, 1500):
        for n_chains in (1, 4, 64):
            ends = window_ends(n, n_chains)
            lengths = [b - a for a, b in zip([0, *ends], [*ends, n], strict=True)]
            assert min(lengths) >= 3
            slow = lengths[1:-1]
            assert all(2 * a <= b for a, b in pairwise(slow))
            assert slow[0] == sum(slow) or slow[0] <= 25
    assert len(window_ends(200, 64)) > len(window_ends(200, 1))  # many chains fill a window sooner


# step sizes and masses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_the_first_mass_is_right_for_independent_normals_wherever_chains_are(far, generator):
    sampler = HamiltonianMonteCarlo(normal(WIDTHS.square().diag()))
    x, target = far * torch.randn(16, 10, dtype=F64, generator=generator), Target(sampler.model)
    Warmup(sampler, 100, "diagonal").begin(sampler.init(x, target, generator), target, generator)
    torch.testing.assert_close(sampler.mass, WIDTHS**-2, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("d", "rate"), [(2, 0.8), (2, 0.9), (10, 0.7), (10, 0.8), (10, 0.9), (100, 0.8), (100, 0.9)])
def test_the_acceptance_rate_is_what_was_asked_for(d, rate, generator):
    sampler = HamiltonianMonteCarlo(normal(torch.eye(d, dtype=F64)), jitter=0.3, target_acceptance=rate)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=100, generator=generator, return_diagnostics=True)
    assert float(noted["acceptance_rate"].mean()) == pytest.approx(rate, abs=0.06)
    assert sampler.tuning["acceptance_rate"] == pytest.approx(rate, abs=0.06)
    assert sampler.tuning["step_size"] == sampler.step_size == float(noted["step_size"][0, 0])
    assert (sampler.tuning["mass"], sampler.tuning["n_warmup"]) == ("diagonal", 300)


def regression(n=400):
    """Of standard deviation sigma, on two columns that are nearly one: E grows as 1 / sigma² from a bad start."""
    design = torch.stack([torch.ones(n), 100 + torch.linspace(-20, 20, n)], 1).double()
    noise = torch.linspace(-1.7, 1.7, n, dtype=F64)[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    y = design @ torch.tensor([20.0, 0.6], dtype=F64) + 18 * noise

    def energy(x):
        residual = y - x[:, :2] @ design.T
        return 0.5 * residual.square().sum(1) * torch.exp(-2 * x[:, 2]) + n * x[:, 2]

    return EnergyModel(energy)


@pytest.mark.parametrize("n_warmup", [150, 400])
def test_no_chain_is_left_where_the_energy_is_steeper_than_elsewhere(hamiltonian, n_warmup, generator):
    model = regression()
    x = 4 * torch.rand(32, 3, dtype=F64, generator=generator) - 2
    start = model(x)
    assert start.max() - start.min() > 1e7
    sampler = hamiltonian(model, target_acceptance=0.8)
    energy = sampler.warm_up(x, n_warmup, generator=generator).kernel.energy
    assert energy.max() - energy.min() < 40  # 3 dimensions: chi square of 80, once in 10¹⁶


def test_in_the_fast_phase_each_chain_has_its_own_step_size_and_afterwards_stragglers_have(generator):
    sampler = HamiltonianMonteCarlo(normal(torch.eye(3, dtype=F64)))
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), Warmup(sampler, 100, "diagonal")
    state, _ = warmup.begin(state, target, generator)
    ends = window_ends(100, 16)

    class Rates(tuple):
        acceptance_rate = torch.where(torch.arange(16) < 2, 0.0, 0.9)

    for i in range(100):
        h = warmup.update(i, state, Rates())[1]["step_size"]
        if i + 1 >= ends[-1]:
            assert h.ndim == 0
        elif i + 1 not in (*ends, ends[0] // 2) and (i < ends[0] or i > ends[0] + 5):
            assert (h[:2] < h[2:].min()).all(), i
            assert h[2:].unique().numel() == 1
    steps = [float(warmup.update(i, state, Rates())[1]["step_size"]) for i in range(3)]
    assert len(set(steps)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("start", ["overdispersed", "far", "one point"])
def test_widths_from_a_thousandth_to_a_thousand_in_300_transitions(hamiltonian, start, dtype, generator):
    """Second moments within 5 standard errors, of at least 64 * 20 independent draws; fails once in 10⁵."""
    model = GaussianModel(torch.zeros(10, dtype=dtype), WIDTHS.square().diag().to(dtype))
    sampler = hamiltonian(model)
    noise = torch.randn(64, 10, generator=generator, dtype=dtype)
    x = {"overdispersed": 10 * noise, "far": 300 + noise, "one point": 0 * noise + 0.1}[start]
    state = sampler.warm_up(x, 300, generator=generator)
    torch.testing.assert_close(sampler.mass.double() * WIDTHS**2, torch.ones(10, dtype=F64), rtol=0.25, atol=0)
    draws = sampler.sample(state=state, n_steps=100, generator=generator, return_trajectory=True)
    squares = (draws.double() / WIDTHS).square().mean((0, 1))
    assert (squares - 1).abs().max() < 5 * (2 / (64 * 20)) ** 0.5
    assert not math.isnan(sampler.tuning["acceptance_rate"])


def test_a_dense_mass_is_the_inverse_covariance(hamiltonian, generator):
    cov = WIDTHS[2:8].diag() @ correlated(6, 0.9) @ WIDTHS[2:8].diag()
    sampler = hamiltonian(normal(cov), adapt_mass="dense")
    sampler.warm_up(n_samples=64, n_steps=400, generator=generator)
    root = torch.linalg.cholesky(cov)
    values = torch.linalg.eigvalsh(root.T @ sampler.mass @ root)  # 1 if the mass is the inverse covariance
    assert sampler.tuning["mass"] == "dense"
    assert values.min() > 0.7
    assert values.max() < 1.4


@pytest.mark.parametrize("r", [0.9, 0.999])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_a_dense_mass_serves_chains_of_few_digits(dtype, r, generator):
    """0.999 rounds to 1 in bfloat16, with which the matrix would be singular; a momentum that stays is solved for."""
    sampler = HamiltonianMonteCarlo(HarmonicModel(dim=2), 0.3, 4, mass=correlated(2, r), momentum_refresh=0.3)
    x = torch.randn(512, 2, generator=generator).to(dtype)
    x, state = sampler.sample(x, n_steps=50, generator=generator, return_state=True)
    assert x.dtype == state.kernel.momentum.dtype == dtype
    squares = torch.cat([x, state.kernel.momentum], 1).double().square().mean(0)  # 1: all are standard normal
    assert (squares - 1).abs().max() < 5 * (2 / 512) ** 0.5 + 20 * torch.finfo(dtype).eps


def test_one_chain_is_enough_for_a_mass(generator):
    sampler = HamiltonianMonteCarlo(normal(WIDTHS[3:7].square().diag()), jitter=0.5)
    sampler.warm_up(n_samples=1, n_steps=1000, generator=generator)
    ratio = sampler.mass * WIDTHS[3:7] ** 2
    assert ratio.min() > 0.4
    assert ratio.max() < 2.5


@pytest.mark.parametrize("event", [(), (3,), (1, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, F64])
def test_any_event_shape_and_dtype(hamiltonian, event, dtype, generator):
    sampler = hamiltonian(HarmonicModel(k=4.0))
    x = torch.randn(32, *event, generator=generator).to(dtype)
    assert sampler.warm_up(x, 60, generator=generator).x.dtype == dtype
    assert torch.as_tensor(sampler.mass).shape == event
    assert (torch.as_tensor(sampler.mass) - 4).abs().max() < 2.5
    assert 0.2 < sampler.step_size < 4


def test_chains_are_tuned_where_the_sampler_walks(hamiltonian, generator):
    model = TransformedModel(HarmonicModel(dim=1), AffineTransform(torch.tensor([1e6]), torch.tensor([1e4])))
    sampler = hamiltonian(model)
    x = sampler.sample(n_samples=64, n_steps=50, n_warmup=100, generator=generator, return_trajectory=True)
    assert 0.5 < float(sampler.mass) < 2
    assert abs(x.mean() - 1e6) < 2e3
    assert 0.8e4 < x.std() < 1.2e4


@pytest.mark.parametrize("cls", [HamiltonianMonteCarlo, NoUTurnSampler, ChEESHamiltonianMonteCarlo])
@pytest.mark.parametrize("given", [{"step_size": LinearScheduler(0.3, 0.1, 10)}, {"target_acceptance": None}], ids=str)
def test_a_schedule_or_no_target_leave_the_step_size_alone_and_not_the_mass(cls, given, generator):
    sampler = cls(normal(torch.tensor([1.0, 25.0], dtype=F64).diag()), **given)
    before = sampler.schedulers["step_size"]
    x = torch.randn(64, 2, dtype=F64, generator=generator)
    sampler.sample(x, n_steps=2, n_warmup=200, generator=generator)
    assert sampler.schedulers["step_size"] is before
    assert "step_size" not in sampler.tuning
    assert 0 < sampler.tuning["acceptance_rate"] <= 1
    torch.testing.assert_close(sampler.mass, torch.tensor([1.0, 0.04], dtype=F64), rtol=0.3, atol=0)
    found = sampler.mass
    sampler.adapt_mass = None
    sampler.sample(x, n_steps=2, n_warmup=30, generator=generator)
    assert sampler.mass is found


def test_a_warm_up_with_nothing_to_tune_leaves_everything_as_it_was(generator):
    for given in ({"step_size": LinearScheduler(0.3, 0.1, 10)}, {"target_acceptance": None}):
        sampler = HamiltonianMonteCarlo(HarmonicModel(), adapt_mass=None, **given)
        before = dict(sampler.schedulers)
        sampler.sample(torch.zeros(4, 2), n_steps=2, n_warmup=30, generator=generator)
        assert sampler.schedulers == before
        assert sampler.mass is sampler.tuning is None


def test_a_warm_up_begins_with_the_mass_that_was_given_whatever_was_tuned_in_between(seeded):
    sampler = HamiltonianMonteCarlo(HarmonicModel(dim=2), mass=3.0)
    runs = []
    for kind in ("diagonal", None, "diagonal"):
        sampler.adapt_mass = kind
        runs.append(sampler.sample(n_samples=8, n_steps=5, n_warmup=60, generator=seeded()))
    assert torch.equal(runs[0], runs[2])


def test_a_mass_may_be_kept_and_a_dense_one_stays_dense(hamiltonian, generator):
    mass = torch.tensor([1.0, 4.0])
    sampler = hamiltonian(HarmonicModel(dim=2), mass=mass, adapt_mass=None)
    sampler.warm_up(n_samples=16, n_steps=50, generator=generator)
    assert sampler.mass is mass
    assert sampler.tuning["mass"] is None
    sampler = hamiltonian(HarmonicModel(dim=2), mass=torch.diag(mass))
    sampler.warm_up(n_samples=16, n_steps=50, generator=generator)
    assert sampler.mass.shape == (2, 2)
    assert sampler.tuning["mass"] == "dense"


def test_a_sampler_that_tunes_nothing_burns_in(seeded):
    sampler = LangevinDynamics(HarmonicModel(dim=2))
    state = sampler.warm_up(n_samples=3, n_steps=7, generator=seeded())
    assert torch.equal(state.x, sampler.sample(n_samples=3, n_steps=7, generator=seeded()))
    assert sampler.tuning is None


# chains that tell nothing ---------------------------------------------------------------------------------------------


def test_chains_that_cannot_move_do_not_count(seeded):
    """Half of them stand where the energy is NaN."""
    model = EnergyModel(lambda x: (x - 2 * x.log()).sum(-1))
    x = 1 + torch.rand(64, 1, dtype=F64, generator=seeded())
    found = []
    for start in (x, torch.cat([x, -1000 * x])):
        sampler = HamiltonianMonteCarlo(model, jitter=0.3)
        with pytest.warns(match="64 of 128 chains started") if len(start) > 64 else nullcontext():
            sampler.warm_up(start, 300, generator=seeded(1))
        found.append((sampler.step_size, float(sampler.mass)))
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_a_rate_that_is_not_finite_is_a_rejection(gumbel):
    class Rates(tuple):
        acceptance_rate = torch.tensor([1.0, math.nan, 0.5, 0.9])

    live = torch.tensor([True, True, True, False])
    rate = Warmup(HamiltonianMonteCarlo(gumbel), 10).acceptance(Rates(), live)
    assert float(rate) == pytest.approx(0.5)


# what a run leaves ----------------------------------------------------------------------------------------------------


def test_warm_up_draws_are_in_no_result(hamiltonian, seeded):
    options = {"return_trajectory": True, "return_diagnostics": True}
    one, two = (hamiltonian(HarmonicModel(dim=2)) for _ in range(2))
    g, x = seeded(), 100 + torch.zeros(8, 2)
    draws, noted = one.sample(x, n_steps=20, n_warmup=50, generator=g, **options)
    assert draws.shape == (8, 20, 2)
    assert draws.abs().max() < 20
    g = seeded()
    state = two.warm_up(x, 50, generator=g)
    assert state.step == 0
    again, noted_again = two.sample(state=state, n_steps=20, generator=g, **options)
    assert torch.equal(again, draws)
    assert all(torch.equal(noted[name], noted_again[name]) for name in noted)
    assert noted["step_size"].unique().tolist() == [pytest.approx(one.step_size)]


def test_a_generator_gives_the_same_bits_again_and_the_global_stream_is_not_read(hamiltonian, seeded):
    sampler, runs = hamiltonian(HarmonicModel(dim=2)), []
    before = torch.get_rng_state()
    for _ in range(2):  # the second starts from what was given, not from what the first one found
        runs.append(sampler.sample(n_samples=8, n_steps=5, n_warmup=60, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)
    sampler.step_size, sampler.mass = 0.01, 3.0  # given anew
    sampler.sample(n_samples=8, n_steps=5, n_warmup=5, generator=seeded())
    assert sampler.mass == 3.0


def test_after_it_50_and_50_steps_are_100_and_nothing_is_tuned_again(hamiltonian, seeded):
    sampler, one, two = hamiltonian(HarmonicModel(dim=2)), seeded(), seeded()
    whole = sampler.sample(n_samples=8, n_steps=100, n_warmup=60, generator=one)
    first, state = sampler.sample(n_samples=8, n_steps=50, n_warmup=60, generator=two, return_state=True)
    found = sampler.step_size, sampler.mass
    assert torch.equal(sampler.sample(state=state, n_steps=50, generator=two), whole)
    assert (sampler.step_size, sampler.mass) == (found[0], found[1])
    assert not torch.equal(first, whole)


def test_a_warm_up_can_go_on_from_a_state(hamiltonian, generator):
    sampler = hamiltonian(HarmonicModel(dim=2))
    _, state = sampler.sample(n_samples=8, n_steps=10, generator=generator, return_state=True)
    state = sampler.warm_up(state=state, n_steps=60, generator=generator)
    assert state.step == 10
    assert sampler.tuning["n_warmup"] == 60


def test_a_warm_up_that_fails_leaves_the_sampler_as_it_was(hamiltonian, generator):
    calls = []

    def energy(x):
        calls.append(1)
        if len(calls) > 300:
            raise ArithmeticError("on purpose")
        return 0.5 * x.square().sum(-1)

    sampler = hamiltonian(EnergyModel(energy))
    before = dict(sampler.schedulers)
    with pytest.raises(ArithmeticError, match="on purpose"):
        sampler.warm_up(torch.ones(8, 2), 500, generator=generator)
    assert sampler.schedulers == before
    assert sampler.mass is sampler.tuning is None


def test_the_model_and_the_starting_points_are_left_as_they_were(hamiltonian, generator):
    net = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1), nn.Dropout())
    sampler = hamiltonian(EnergyModel(net) + HarmonicModel())
    x = torch.ones(8, 2)
    sampler.warm_up(x, 30, generator=generator)
    assert torch.equal(x, torch.ones(8, 2))
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_the_host_reads_nothing_between_the_ends_of_windows(monkeypatch, generator):
    sampler = HamiltonianMonteCarlo(normal(torch.eye(3, dtype=F64)))
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), Warmup(sampler, 40, "diagonal")
    reads = []
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=own: [reads.append(1), own(self)][1])
    state, now = warmup.begin(state, target, generator)
    noise, ends = tuple(buffer[0] for buffer in sampler.noise(x, 1)), window_ends(40, 16)
    ends = [ends[0] // 2, *ends]
    with torch.no_grad():
        for i in range(40):
            reads.clear()
            sampler.draw(noise, generator)
            state, info = sampler.step(state, noise, target, **now)
            state, now = warmup.update(i, state, info)
            if i + 1 not in ends:
                assert not [r for r in reads if i > 0 and i not in ends]
    warmup.finish()
