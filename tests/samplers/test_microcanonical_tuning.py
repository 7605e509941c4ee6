"""Microcanonical dynamics tune themselves: step size, mass and the length over which directions are kept."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchebm.core import (
    EnergyModel,
    GaussianModel,
    HarmonicModel,
    LinearScheduler,
    SamplingDivergenceWarning,
    Target,
)
from torchebm.samplers import MicrocanonicalLangevin
from torchebm.samplers.microcanonical_tuning import EnergyErrorControl, MicrocanonicalWarmup, autocorrelation_time
from torchebm.samplers.warmup import window_ends

F64 = torch.float64


@pytest.mark.parametrize("start", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("n_chains", [1, 64])
def test_the_step_size_meets_the_energy_error_that_was_asked_for(start, n_chains, generator):
    """Errors c h³ ξ √d: their mean square for each dimension is 4e-4 at h = (0.02 / c)^(1/3)."""
    control = EnergyErrorControl(start, 4e-4, 7, torch.zeros(n_chains, 7))
    live = torch.ones(n_chains, dtype=torch.bool)
    live[1:5] = False
    for _ in range(1000):
        error = 0.3 * control.step_size**3 * 7**0.5 * torch.randn(n_chains, dtype=F64, generator=generator)
        error[1:3], error[5:7] = 1e9, math.nan
        control.update(error, live)
    exact = (0.02 / 0.3) ** (1 / 3)
    # the weights discount small errors, for one chain as for many: by less than a fifth of the step size
    assert float(control.average) == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("r", [-0.5, 0.0, 0.6, 0.95])
def test_the_autocorrelation_time_of_an_autoregression(r, generator):
    noise = torch.randn(600, 32, 4, dtype=F64, generator=generator)
    draws = [noise[0]]
    for xi in noise[1:]:
        draws.append(r * draws[-1] + (1 - r * r) ** 0.5 * xi)
    draws = 100 + torch.tensor([1.0, 10.0, 0.0, 1e-3]) * torch.stack(draws)  # one does not vary
    draws[300, 7, 1] = math.nan  # a chain that does not count
    assert autocorrelation_time(draws) == pytest.approx((1 + r) / (1 - r), rel=0.2)
    assert math.isnan(autocorrelation_time(draws[:3]))
    assert math.isnan(autocorrelation_time(draws[:, 7:8]))


WIDTHS = torch.logspace(-1, 1, 20, dtype=F64)[torch.randperm(20, generator=torch.Generator().manual_seed(5))]


@pytest.mark.parametrize("metropolised", [False, True], ids=["unadjusted", "adjusted"])
@pytest.mark.parametrize("start", ["standard normal", "one point"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_tuned_on_widths_from_a_tenth_to_ten(metropolised, start, dtype, generator):
    """20 dimensions, 64 chains: widths within 10 %."""
    model = GaussianModel(torch.zeros(20, dtype=dtype), WIDTHS.square().diag().to(dtype))
    sampler = MicrocanonicalLangevin(model, metropolised=metropolised)
    noise = torch.randn(64, 20, dtype=dtype, generator=generator)
    x = {"standard normal": noise, "one point": 0 * noise + 0.1}[start]
    state = sampler.warm_up(x, 500, generator=generator)
    ratio = sampler.mass.double() * WIDTHS**2
    assert ratio.min() > 0.75
    assert ratio.max() < 1.3
    draws, noted = sampler.sample(
        state=state, n_steps=500, generator=generator, return_trajectory=True, return_diagnostics=True
    )
    assert (draws.double().std((0, 1)) / WIDTHS - 1).abs().max() < 0.1
    assert draws.dtype == dtype
    tuning = sampler.tuning
    assert (tuning["step_size"], tuning["decoherence_length"]) == (sampler.step_size, sampler.decoherence_length)
    assert (tuning["mass"], tuning["n_warmup"]) == ("diagonal", 500)
    assert 0.2 * 20**0.5 < sampler.decoherence_length < 3 * 20**0.5
    if metropolised:
        assert float(noted["acceptance_rate"].mean()) == pytest.approx(0.9, abs=0.05)
        assert tuning["acceptance_rate"] == pytest.approx(0.9, abs=0.06)
    else:
        reached = float(noted["energy_error"].square().mean()) / 20
        assert reached == pytest.approx(5e-4, rel=0.3)
        assert tuning["energy_var"] == pytest.approx(5e-4, rel=0.3)


@pytest.mark.parametrize("metropolised", [False, True], ids=["unadjusted", "adjusted"])
def test_tuned_on_a_banana(metropolised, generator):
    """x ~ N(0, 4), y | x ~ N((x² - 4) / 4, 1/4): sd 2 and 1.5, within 10 %."""

    def banana(x):
        return x[:, 0].square() / 8 + 2 * (x[:, 1] - 0.25 * (x[:, 0].square() - 4)).square()

    sampler = MicrocanonicalLangevin(EnergyModel(banana), metropolised=metropolised)
    x = torch.randn(64, 2, dtype=F64, generator=generator)
    draws = sampler.sample(x, n_steps=1500, n_warmup=500, generator=generator, return_trajectory=True)
    assert (draws.std((0, 1)) / torch.tensor([2.0, 1.5]) - 1).abs().max() < 0.1
    assert 0.1 < sampler.decoherence_length < 10


@pytest.mark.parametrize("rate", [0.65, 0.8, 0.9])
def test_the_acceptance_rate_is_what_was_asked_for(rate, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=10), metropolised=True, target_acceptance=rate)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=128, generator=generator, return_diagnostics=True)
    assert float(noted["acceptance_rate"].mean()) == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize("goal", [1e-5, 1e-2])
def test_the_energy_error_is_what_was_asked_for(goal, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=10), desired_energy_var=goal)
    state = sampler.warm_up(n_samples=64, n_steps=300, generator=generator)
    _, noted = sampler.sample(state=state, n_steps=200, generator=generator, return_diagnostics=True)
    assert float(noted["energy_error"].square().mean()) / 10 == pytest.approx(goal, rel=0.35)


def test_the_decoherence_length_is_a_distance_and_no_number_of_steps(generator):
    """Steps that are eight times smaller need as many more, and the length stays near the root of d."""
    x = torch.randn(64, 10, dtype=F64, generator=generator)
    found = []
    for goal in (1e-4, 1e-4 / 8**6):
        sampler = MicrocanonicalLangevin(HarmonicModel(), desired_energy_var=goal)
        sampler.warm_up(x, 800, generator=generator)
        found.append((sampler.step_size, sampler.decoherence_length))
    assert found[0][0] / found[1][0] == pytest.approx(8, rel=0.2)
    assert all(0.3 < length / 10**0.5 < 2.5 for _, length in found)


def test_the_number_of_steps_follows_the_step_size(generator):
    """Where windows end and 5, 10, 20, 40, ... transitions later it is L / h; between, it varies around that."""
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), 0.01, metropolised=True)
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), MicrocanonicalWarmup(sampler, 300)
    state, now = warmup.begin(state, target, generator)
    noise, last = tuple(buffer[0] for buffer in sampler.noise(x, 1)), window_ends(300, 16)[-1]
    mean = None
    with torch.no_grad():
        for i in range(300):
            sampler.draw(noise, generator)
            state, info = sampler.step(state, noise, target, **now)
            state, now = warmup.update(i, state, info)
            if i + 1 - last in (5, 10, 20, 40):
                mean = 3**0.5 / float(warmup._steps.average)
            if mean is not None:
                assert now["n_leapfrog_steps"] == sampler.trajectory_steps(i + 1, mean)
    warmup.finish()
    assert sampler.decoherence_length == pytest.approx(3**0.5)


@pytest.mark.parametrize("kind", ["identity", "scalar", "diagonal", "dense"])
@pytest.mark.parametrize("metropolised", [False, True])
def test_a_mass_that_is_kept_and_a_length_in_its_units(kind, metropolised, generator):
    cov = torch.tensor([[4.0, 1.8, 0.0], [1.8, 1.0, 0.0], [0.0, 0.0, 9.0]], dtype=F64)
    M = {
        "identity": torch.eye(3, dtype=F64),
        "scalar": 4 * torch.eye(3, dtype=F64),
        "diagonal": torch.diag(torch.tensor([4.0, 1.0, 0.1], dtype=F64)),
        "dense": torch.linalg.inv(cov),
    }[kind]
    given = {"identity": None, "scalar": 4.0, "diagonal": M.diagonal(), "dense": M}[kind]
    adapt = "diagonal" if kind == "dense" else None  # a dense one stays dense
    sampler = MicrocanonicalLangevin(GaussianModel(torch.zeros(3), cov), mass=given, adapt_mass=adapt,
                                     metropolised=metropolised)  # fmt: skip
    sampler.warm_up(GaussianModel(torch.zeros(3), cov).sample(64, generator=generator), 400, generator=generator)
    assert sampler.mass is given
    assert sampler.tuning["mass"] is None
    if metropolised:
        assert sampler.decoherence_length == pytest.approx(float((M @ cov).trace()) ** 0.5, rel=0.2)


@pytest.mark.parametrize("metropolised", [False, True])
def test_any_length_of_warm_up_and_number_of_chains(metropolised, generator):
    for n_warmup in (1, 5, 19, 20, 27, 28, 40):
        for n_chains in (1, 2, 70):
            sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), metropolised=metropolised)
            x = sampler.sample(n_samples=n_chains, n_steps=2, n_warmup=n_warmup, generator=generator)
            assert x.isfinite().all()
            assert 0.01 < sampler.step_size < 100
            assert sampler.tuning["n_warmup"] == n_warmup
            assert (sampler.mass is None) == (n_warmup < (20 if metropolised else 28))
            assert n_warmup >= 20 or sampler.decoherence_length == 1.0


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_schedule_or_no_target_leave_alone_what_they_are_for(metropolised, generator):
    schedule = LinearScheduler(0.3, 0.1, 10)
    no_target = {"target_acceptance" if metropolised else "desired_energy_var": None}
    for given, left in (({"step_size": schedule}, "step_size"), (no_target, "step_size"),
                        ({"decoherence_length": schedule}, "decoherence_length")):  # fmt: skip
        sampler = MicrocanonicalLangevin(HarmonicModel(4.0), metropolised=metropolised, **given)
        before = dict(sampler.schedulers)
        sampler.sample(torch.randn(64, 2, generator=generator), n_steps=2, n_warmup=100, generator=generator)
        assert [name for name in before if sampler.schedulers[name] is before[name]] == [left]
        assert left not in sampler.tuning
        assert (sampler.mass - 4).abs().max() < 2
    nothing = {"step_size": schedule, "decoherence_length": schedule, "adapt_mass": None}
    sampler = MicrocanonicalLangevin(HarmonicModel(), metropolised=metropolised, **nothing)
    sampler.sample(torch.zeros(4, 2), n_steps=2, n_warmup=30, generator=generator)
    assert sampler.mass is sampler.tuning is None


def test_a_target_that_nothing_would_heed_is_refused():
    with pytest.raises(TypeError, match=r"desired_energy_var is for metropolised=False"):
        MicrocanonicalLangevin(HarmonicModel(), metropolised=True, desired_energy_var=1e-3)
    with pytest.raises(TypeError, match=r"target_acceptance is for metropolised=True"):
        MicrocanonicalLangevin(HarmonicModel(), target_acceptance=0.5)
    one, two = (MicrocanonicalLangevin(HarmonicModel(), metropolised=flag) for flag in (True, False))
    with pytest.raises(ValueError, match="metropolised=True, which is fixed at construction"):
        two.load_state_dict(one.state_dict())


@pytest.mark.parametrize("metropolised", [False, True])
def test_chains_that_cannot_move_do_not_count(metropolised, seeded):
    """Half of them stand where the energy is NaN."""
    model = EnergyModel(lambda x: torch.where(x.abs() < 50, x.square(), math.nan).sum(-1))
    x = torch.randn(64, 2, dtype=F64, generator=seeded())
    sampler = MicrocanonicalLangevin(model, metropolised=metropolised)
    with pytest.warns(SamplingDivergenceWarning, match="64 of 128 chains started"):
        sampler.warm_up(torch.cat([x, 1000 + 0 * x]), 300, generator=seeded(1))
    assert (sampler.mass - 2).abs().max() < 0.5
    assert 0.05 < sampler.step_size < 5
    assert 0.1 < sampler.decoherence_length < 10


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_generator_gives_the_same_bits_again(metropolised, seeded):
    sampler, runs = MicrocanonicalLangevin(HarmonicModel(dim=2), metropolised=metropolised), []
    before = torch.get_rng_state()
    for _ in range(2):  # the second starts from what was given, not from what the first one found
        runs.append(sampler.sample(n_samples=8, n_steps=5, n_warmup=60, generator=seeded()))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*runs)
    sampler.step_size, sampler.mass = 0.01, 3.0  # given anew
    sampler.sample(n_samples=8, n_steps=5, n_warmup=5, generator=seeded())
    assert sampler.mass == 3.0


@pytest.mark.parametrize("metropolised", [False, True])
def test_what_was_found_is_saved_and_loaded(metropolised, tmp_path, seeded):
    model = HarmonicModel(dim=2)
    sampler, other = (MicrocanonicalLangevin(model, metropolised=metropolised) for _ in range(2))
    state = sampler.warm_up(n_samples=8, n_steps=60, generator=seeded())
    saved = sampler.state_dict()
    save_file({"mass": saved.pop("mass")}, tmp_path / "mass.safetensors")
    (tmp_path / "rest.json").write_text(json.dumps(saved))
    other.load_state_dict(json.loads((tmp_path / "rest.json").read_text()) | load_file(tmp_path / "mass.safetensors"))
    assert other.tuning == sampler.tuning
    runs = [s.sample(state=state, n_steps=5, generator=seeded(1)) for s in (sampler, other)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("metropolised", [False, True])
def test_a_warm_up_that_fails_leaves_the_sampler_as_it_was(metropolised, generator):
    calls = []

    def energy(x):
        calls.append(1)
        if len(calls) > 150:
            raise ArithmeticError("on purpose")
        return 0.5 * x.square().sum(-1)

    sampler = MicrocanonicalLangevin(EnergyModel(energy), metropolised=metropolised)
    before = dict(sampler.schedulers)
    with pytest.raises(ArithmeticError, match="on purpose"):
        sampler.warm_up(torch.ones(8, 2), 500, generator=generator)
    assert sampler.schedulers == before
    assert sampler.mass is sampler.tuning is None


@pytest.mark.parametrize("metropolised", [False, True])
def test_the_host_reads_nothing_between_the_ends_of_windows(metropolised, monkeypatch, generator):
    sampler = MicrocanonicalLangevin(HarmonicModel(dim=3), metropolised=metropolised)
    x, target = torch.randn(16, 3, dtype=F64, generator=generator), Target(sampler.model)
    state, warmup = sampler.init(x, target, generator), MicrocanonicalWarmup(sampler, 60)
    reads = []
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, own=own: [reads.append(1), own(self)][1])
    state, now = warmup.begin(state, target, generator)
    noise = tuple(buffer[0] for buffer in sampler.noise(x, 1))
    ends = window_ends(60 if metropolised else 42, 16)
    looks = {end + 5 * 2**k for end in ends for k in range(5)} if metropolised else set()
    with torch.no_grad():
        for i in range(60):
            reads.clear()
            sampler.draw(noise, generator)
            state, info = sampler.step(state, noise, target, **now)
            state, now = warmup.update(i, state, info)
            if i > 0 and not {i, i + 1} & (looks | set(ends)):  # a new mass is checked in the step that follows
                assert not reads, i
    warmup.finish()
