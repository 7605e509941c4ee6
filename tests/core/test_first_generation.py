"""The earlier spelling of the API: what the guides that use it show must work, and mean what is written here."""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from torchebm.core import (
    BaseModel,
    BaseSampler,
    CompositeEnergy,
    CosineScheduler,
    DoubleWellEnergy,
    DoubleWellModel,
    EnergyFunction,
    EnergyModel,
    GaussianEnergy,
    GaussianModel,
    Loss,
    NonFiniteEnergyError,
    Sampler,
    SamplingDivergenceWarning,
    Target,
    TemperatureScheduler,
    WeightedSum,
)
from torchebm.cuda import langevin_step_cuda
from torchebm.losses import ContrastiveDivergence
from torchebm.models import MLP
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics, MetropolisHastings, batch_sample_chain

F64 = torch.float64
SAMPLERS = {
    LangevinDynamics: {"step_size": 0.05},
    HamiltonianMonteCarlo: {"step_size": 0.1, "n_leapfrog_steps": 3},
    MetropolisHastings: {"proposal_scale": 0.5},
}
every_sampler = pytest.mark.parametrize(("kind", "options"), SAMPLERS.items(), ids=lambda v: getattr(v, "__name__", ""))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=F64)


def gaussian():
    return GaussianEnergy(
        mean=torch.tensor([1.0, -1.0], dtype=F64), cov=torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64)
    )


class Gumbel(EnergyFunction):
    """Skewed, so that a wrong sign shows: mean 0.5772."""

    def forward(self, x):
        return (x + torch.exp(-x)).sum(-1)


# energies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [gaussian(), DoubleWellEnergy(1.5, 2.0), Gumbel()], ids=lambda e: type(e).__name__)
def test_score_is_the_gradient_of_the_energy(energy):
    x = points(5, 2)
    y = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(energy(y).sum(), y)
    torch.testing.assert_close(energy.score(x), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(energy.score(x), energy.gradient(x), rtol=0, atol=0)


def test_and_says_so():
    for words in (EnergyFunction.__doc__, EnergyFunction.score.__doc__):
        assert "energy" in words.lower()
    assert "ENERGY" in EnergyFunction.__doc__
    assert "opposite sign" in EnergyFunction.__doc__


def test_a_composite_keeps_the_meaning_and_the_later_models_have_theirs():
    g, d, x = gaussian(), DoubleWellEnergy(), points(4, 2)
    composite = CompositeEnergy([g, d], weights=[1.0, 0.5])
    torch.testing.assert_close(composite(x), g(x) + 0.5 * d(x))
    torch.testing.assert_close(composite.score(x), g.score(x) + 0.5 * d.score(x))
    for later in (g + d, GaussianModel(g.mean, g.cov), EnergyModel(Gumbel())):
        torch.testing.assert_close(later.score(x), -later.gradient(x), rtol=0, atol=0)


def test_energy_function_is_a_model():
    assert issubclass(EnergyFunction, BaseModel)
    for energy in (
        gaussian(),
        DoubleWellEnergy(),
        CompositeEnergy([gaussian()]),
        Gumbel(),
        EnergyModel(nn.Linear(2, 1)),
    ):
        assert isinstance(energy, EnergyFunction)
        assert isinstance(energy, BaseModel)
    assert not isinstance(GaussianModel(torch.zeros(2), torch.eye(2)), EnergyFunction)
    assert isinstance(CompositeEnergy([gaussian()]), WeightedSum)
    with pytest.raises(NotImplementedError, match="must define forward"):
        EnergyFunction()(points(1, 2))


def test_gaussian_energy():
    g, x = gaussian(), points(6, 2)
    inverse = torch.linalg.inv(g.cov)
    centered = x - g.mean
    torch.testing.assert_close(g(x), 0.5 * (centered @ inverse * centered).sum(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(g.precision, inverse, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(1.0, 2.0), (0.3, 0.5), (2, 3)])
@pytest.mark.parametrize("event", [(), (1,), (3,), (1, 2, 2)], ids=str)
def test_double_well_energy_by_hand(a, b, event):
    energy, x = DoubleWellEnergy(a, b), points(5, *event)
    torch.testing.assert_close(energy(x), a * (x.square() - b).square().reshape(5, -1).sum(1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(energy.gradient(x), 4 * a * x * (x.square() - b), rtol=1e-10, atol=1e-12)


def test_double_well_energy_is_a_class_of_its_own():
    assert (DoubleWellEnergy().a, DoubleWellEnergy().b) == (1.0, 2.0)
    assert not issubclass(DoubleWellEnergy, DoubleWellModel)
    x = torch.full((1, 1), math.sqrt(2.0), dtype=F64)  # wells at the root of b, where DoubleWellModel has them at b
    torch.testing.assert_close(DoubleWellEnergy(1.0, 2.0)(x), torch.zeros(1, dtype=F64))
    torch.testing.assert_close(DoubleWellModel(1.0, 2.0)(x), torch.full((1,), 4.0, dtype=F64))
    for bad in ({"a": 0}, {"a": -1}, {"b": 0}, {"b": math.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            DoubleWellEnergy(**bad)


def test_mlp():
    network = MLP(input_dim=3, hidden_dims=[8, 4], output_dim=2)
    assert [tuple(m.weight.shape) for m in network if isinstance(m, nn.Linear)] == [(8, 3), (4, 8), (2, 4)]
    assert network(torch.zeros(5, 3)).shape == (5, 2)
    assert EnergyModel(network=MLP(input_dim=2, hidden_dims=[32, 32], output_dim=1))(torch.zeros(5, 2)).shape == (5,)


# names ---------------------------------------------------------------------------------------------------------------


@every_sampler
def test_energy_function_is_a_name_of_the_model(kind, options):
    energy = gaussian()
    for sampler in (kind(energy_function=energy, **options), kind(model=energy, **options), kind(energy, **options)):
        assert sampler.model is energy
        assert sampler.energy_function is energy
        other = DoubleWellEnergy()
        sampler.energy_function = other
        assert sampler.model is other
        sampler.energy_function = nn.Linear(2, 1)
        assert isinstance(sampler.model, EnergyModel)


@every_sampler
def test_the_constructors_show_the_later_names(kind, options):
    names = list(inspect.signature(kind).parameters)
    assert names[0] == "model"
    assert not {"energy_function", "mass_matrix", "k"} & set(names)
    assert set(options) <= set(names)


def test_the_loss_shows_the_later_names():
    names = list(inspect.signature(ContrastiveDivergence).parameters)
    assert names[:7] == [
        "model", "sampler", "k_steps", "persistent", "buffer_size", "new_sample_ratio", "energy_reg_weight"
    ]  # fmt: skip
    defaults = {name: p.default for name, p in inspect.signature(ContrastiveDivergence).parameters.items()}
    assert defaults["k_steps"] == 10
    assert defaults["persistent"] is False
    assert defaults["buffer_size"] == 10_000
    assert defaults["new_sample_ratio"] == 0.0
    assert defaults["energy_reg_weight"] == 0.001
    assert not {"k", "batch_size", "energy_function"} & set(names)


@every_sampler
def test_both_names_are_too_many(kind, options):
    with pytest.raises(TypeError, match="energy_function and model are two names of one argument"):
        kind(model=gaussian(), energy_function=gaussian(), **options)
    with pytest.raises(TypeError):
        kind(gaussian(), energy_function=gaussian(), **options)


def test_both_names_are_too_many_elsewhere():
    mass = torch.eye(2)
    with pytest.raises(TypeError, match="mass_matrix and mass are two names"):
        HamiltonianMonteCarlo(gaussian(), mass=mass, mass_matrix=mass)
    model = gaussian()
    with pytest.raises(TypeError, match="k and k_steps are two names"):
        ContrastiveDivergence(model, LangevinDynamics(model), k=3, k_steps=3)
    with pytest.raises(TypeError, match="k and k_steps are two names"):
        ContrastiveDivergence(sampler=LangevinDynamics(model), k=3, k_steps=3)
    with pytest.raises(TypeError, match="energy_function and model are two names"):
        ContrastiveDivergence(model=model, energy_function=model, sampler=LangevinDynamics(model))


def test_k_is_a_name_of_k_steps():
    model = gaussian()
    assert ContrastiveDivergence(model, LangevinDynamics(model), k=3).k_steps == 3
    loss_fn = ContrastiveDivergence(energy_function=model, sampler=LangevinDynamics(model), k=4)
    assert loss_fn.k_steps == 4
    assert loss_fn.model is model
    assert isinstance(loss_fn(points(4, 2)), tuple)


def test_a_subclass_may_use_either_spelling():
    class Earlier(LangevinDynamics):
        def __init__(self, energy_function, step_size=0.2):
            super().__init__(energy_function, step_size=step_size)

    class Later(LangevinDynamics):
        def __init__(self, model, step_size=0.2, label="x", **options):
            super().__init__(model, step_size, **options)
            self.label = label

    class Through(LangevinDynamics):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    energy = gaussian()
    for sampler in (Earlier(energy), Earlier(energy_function=energy), Later(energy_function=energy), Later(energy),
                    Later(model=energy, label="y"), Through(energy_function=energy, step_size=0.2),
                    Through(energy, 0.2)):  # fmt: skip
        assert sampler.energy_function is energy
        assert sampler.step_size == 0.2
        assert sampler.sample(n_samples=3, n_steps=2).shape == (3, 2)


def test_a_noise_scale_given_in_the_earlier_spelling_warns_that_it_is_a_square_root_now():
    for scale in (0.5, 2, TemperatureScheduler(2.0, 1.0, 10), lambda step: 1.0):
        with pytest.warns(
            UserWarning, match=r"it is the square root of the temperature; .* was the temperature itself"
        ) as seen:
            LangevinDynamics(energy_function=gaussian(), noise_scale=scale)
        assert len(seen) == 1
        assert seen[0].filename == __file__  # it points at the caller
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LangevinDynamics(energy_function=gaussian())
        LangevinDynamics(energy_function=gaussian(), noise_scale=1.0)
        LangevinDynamics(energy_function=gaussian(), noise_scale=1)
        LangevinDynamics(model=gaussian(), noise_scale=0.5)
        LangevinDynamics(gaussian(), noise_scale=0.5)


def test_noise_scale_is_the_square_root_of_the_temperature():
    """At temperature 4 the variance is 4 times that of the density: noise_scale=2. Within 5 standard errors."""
    n, h = 20_000, 0.1
    flat = GaussianEnergy(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64))
    x = LangevinDynamics(flat, h, noise_scale=2.0).sample(x=2 * points(n, 1), n_steps=80, generator=seeded(1))
    variance = 4 / (1 - h / 2)
    assert abs(float(x.var()) / variance - 1) < 5 * math.sqrt(2 / n)


# the mass ------------------------------------------------------------------------------------------------------------

MASS = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)


def test_mass_matrix_is_the_mass():
    """One leapfrog step by hand: momentum M^(1/2) xi, velocity M^-1 p."""
    energy, h, x = gaussian(), 0.3, points(6, 2)
    sampler = HamiltonianMonteCarlo(energy_function=energy, step_size=h, n_leapfrog_steps=1, mass_matrix=MASS)
    assert sampler.mass is MASS
    drawn = seeded(5)
    xi = torch.empty(6, 2, dtype=F64).normal_(generator=drawn)
    u = torch.empty(6, dtype=F64).uniform_(generator=drawn)
    p = xi @ torch.linalg.cholesky(MASS).T
    inverse = torch.linalg.inv(MASS)
    half = p - h / 2 * energy.gradient(x)
    y = x + h * half @ inverse
    q = half - h / 2 * energy.gradient(y)
    log_ratio = energy(x) - energy(y) + 0.5 * (p @ inverse * p).sum(1) - 0.5 * (q @ inverse * q).sum(1)
    expected = torch.where((torch.log1p(-u) < log_ratio)[:, None], y, x)
    torch.testing.assert_close(sampler.sample(x=x, n_steps=1, generator=seeded(5)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "mass", [None, 3.0, torch.tensor([2.0, 0.5], dtype=F64), MASS], ids=["none", "number", "diag", "dense"]
)
def test_momenta_have_covariance_m(mass):
    """On a flat energy a step moves by h M^-1 p, of covariance h² M^-1: entries within 5 standard errors."""
    n, h = 20_000, 0.5
    flat = EnergyModel(lambda x: 0 * x.sum(-1))
    sampler = HamiltonianMonteCarlo(energy_function=flat, step_size=h, n_leapfrog_steps=1, mass_matrix=mass)
    moved = sampler.sample(x=torch.zeros(n, 2, dtype=F64), n_steps=1, generator=seeded()) / h
    whole = torch.eye(2, dtype=F64) if mass is None else torch.as_tensor(mass, dtype=F64)
    whole = torch.eye(2, dtype=F64) * whole if whole.ndim < 2 else whole
    expected = torch.linalg.inv(whole)
    spread = ((expected.square() + expected.diagonal()[:, None] * expected.diagonal()) / n).sqrt()
    assert ((moved.T @ moved / n - expected).abs() < 5 * spread).all()


def test_the_density_does_not_depend_on_the_mass():
    """Started in the target, it stays there: mean and covariance within 5 standard errors of 20,000 chains."""
    energy, n = gaussian(), 20_000
    x = energy.sample(n, generator=seeded())
    sampler = HamiltonianMonteCarlo(energy_function=energy, step_size=0.8, n_leapfrog_steps=2, mass_matrix=MASS)
    x = sampler.sample_chain(dim=2, n_steps=10, n_samples=n, initial_samples=x, generator=seeded(1))
    d = energy.cov.diagonal()
    assert ((x.mean(0) - energy.mean).abs() < 5 * (d / n).sqrt()).all()
    spread = ((energy.cov.square() + d[:, None] * d) / n).sqrt()
    assert ((torch.cov(x.T) - energy.cov).abs() < 5 * spread).all()


# chains --------------------------------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize("event", [(2,), (1, 2, 3)], ids=str)
def test_sample_chain(kind, options, event):
    sampler = kind(energy_function=DoubleWellEnergy(), **options)
    dim = event[0] if len(event) == 1 else event
    assert sampler.sample_chain(dim=dim, n_steps=4, n_samples=5).shape == (5, *event)
    assert sampler.sample_chain(dim=dim, n_steps=4).shape == (1, *event)
    assert sampler.sample(n_samples=5, dim=dim, n_steps=4).shape == (5, *event)
    x, trajectory = sampler.sample_chain(dim=dim, n_steps=4, n_samples=5, return_trajectory=True)
    assert trajectory.shape == (5, 5, *event)  # steps first, the start included
    assert torch.equal(trajectory[-1], x)


@every_sampler
def test_sample_chain_is_sample_with_the_steps_first(kind, options):
    sampler, start = kind(energy_function=gaussian(), **options), points(4, 2)
    kept = start.clone()
    x, trajectory = sampler.sample_chain(dim=2, n_steps=6, n_samples=4, initial_samples=start, return_trajectory=True,
                                         generator=seeded())  # fmt: skip
    later = sampler.sample(x=start, n_steps=6, return_trajectory=True, generator=seeded())
    assert torch.equal(trajectory[0], start)
    assert torch.equal(trajectory[1:].transpose(0, 1), later)
    assert torch.equal(x, later[:, -1])
    assert torch.equal(x, sampler.sample_chain(initial_samples=start, n_steps=6, generator=seeded()))
    assert torch.equal(start, kept)
    x += 1
    assert not torch.equal(trajectory[-1], x)  # what is returned is not one tensor twice


@every_sampler
def test_sample_chain_of_no_steps(kind, options):
    sampler, start = kind(energy_function=gaussian(), **options), points(4, 2)
    x, trajectory = sampler.sample_chain(n_steps=0, initial_samples=start, return_trajectory=True)
    assert trajectory.shape == (1, 4, 2)
    assert torch.equal(x, start)
    assert torch.equal(trajectory[0], start)


@every_sampler
def test_sample_chain_draws_from_the_generator_alone(kind, options):
    sampler = kind(energy_function=gaussian(), **options)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = (sampler.sample_chain(dim=2, n_steps=3, n_samples=4, generator=seeded()) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


@every_sampler
def test_sample_step_is_one_step(kind, options):
    sampler, x = kind(energy_function=gaussian(), **options), points(5, 2)
    kept = x.clone()
    torch.manual_seed(3)
    stepped = sampler.sample_step(x)
    torch.manual_seed(3)
    assert torch.equal(stepped, sampler.sample(x=x, n_steps=1))
    assert torch.equal(x, kept)
    assert not stepped.requires_grad


def test_sample_step_uses_the_schedule_at_its_counter():
    sampler = LangevinDynamics(Gumbel(), lambda step: 0.1 / (step + 1), noise_scale=0.0)
    slope = Gumbel().gradient(torch.ones(1, 1, dtype=F64))
    x = torch.ones(1, 1, dtype=F64)
    torch.testing.assert_close(sampler.sample_step(x), x - 0.1 * slope)
    sampler.step_schedulers()
    torch.testing.assert_close(sampler.sample_step(x), x - 0.05 * slope)


def test_batches():
    sampler = LangevinDynamics(energy_function=DoubleWellEnergy(), step_size=0.01)
    for n, size in ((25, 10), (20, 10), (3, 10), (0, 10)):
        assert batch_sample_chain(sampler, dim=2, n_steps=3, n_samples=n, batch_size=size).shape == (n, 2)
    flat = LangevinDynamics(EnergyModel(lambda x: 0 * x.sum(-1)), 0.01)
    whole = batch_sample_chain(flat, dim=2, n_steps=1, n_samples=7, batch_size=3, generator=seeded())
    assert len(whole.unique(dim=0)) == 7


# a step of one's own -------------------------------------------------------------------------------------------------


class CUDALangevinDynamics(LangevinDynamics):  # as a guide shows it
    """CUDA-optimized Langevin dynamics sampler."""

    def sample_step(self, x: torch.Tensor) -> torch.Tensor:
        """Perform one step of Langevin dynamics with CUDA optimization."""
        if not torch.cuda.is_available() or not x.is_cuda:
            return super().sample_step(x)
        return langevin_step_cuda(x, self.energy_function, self.step_size, self.noise_scale)


class Counted(CUDALangevinDynamics):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.n_calls = 0

    def sample_step(self, x):
        self.n_calls += 1
        return super().sample_step(x)


def test_cuda_langevin_dynamics_of_the_guide():
    x = points(5, 2)
    results = []
    for kind in (CUDALangevinDynamics, LangevinDynamics):
        sampler = kind(energy_function=gaussian(), step_size=0.05)
        torch.manual_seed(0)
        results.append([sampler.sample(x=x, n_steps=7), sampler.sample_chain(2, 7, 5, initial_samples=x)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_an_overridden_step_is_run_by_sample_and_sample_chain():
    sampler = Counted(energy_function=gaussian(), step_size=0.05)
    sampler.sample(dim=2, n_samples=3, n_steps=5)
    assert sampler.n_calls == 5
    x, trajectory = sampler.sample_chain(dim=2, n_samples=3, n_steps=4, return_trajectory=True)
    assert sampler.n_calls == 9
    assert trajectory.shape == (5, 3, 2)
    assert torch.equal(trajectory[-1], x)
    _, diagnostics = sampler.sample(dim=2, n_samples=3, n_steps=2, return_diagnostics=True)
    assert sampler.n_calls == 11
    assert diagnostics["energy"].shape == (3, 2)
    batch_sample_chain(sampler, dim=2, n_steps=2, n_samples=4, batch_size=2)
    assert sampler.n_calls == 15


class Downhill(Sampler):
    """Writes nothing but `sample_step`."""

    def __init__(self, energy_function, step_size=0.1):
        super().__init__(energy_function)
        self.step_size = step_size

    def sample_step(self, x):
        return x - self.step_size * self.energy_function.score(x)


@pytest.mark.parametrize("event", [(), (2,), (1, 2, 2)], ids=str)
def test_a_sampler_that_writes_only_its_step(event):
    energy, x = DoubleWellEnergy(0.1, 1.0), points(4, *event)
    expected = x.clone()
    for _ in range(10):
        expected = expected - 0.1 * energy.gradient(expected)
    torch.testing.assert_close(Downhill(energy).sample(x=x, n_steps=10), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(Downhill(energy_function=energy).sample_chain(n_steps=10, initial_samples=x), expected)


def test_an_overridden_step_follows_the_schedules():
    """The step sees the number in force at each transition, from the first on, in every run."""

    class Seen(LangevinDynamics):
        def sample_step(self, x):
            seen.append(self.step_size)
            return super().sample_step(x)

    sampler = Seen(Gumbel(), lambda step: 0.1 / (step + 1))
    for options, expected in (({}, [1, 2, 3]), ({}, [1, 2, 3]), ({"reset_schedulers": False}, [4, 5, 6])):
        seen = []
        sampler.sample(x=torch.zeros(2, 1), n_steps=3, **options)
        assert seen == pytest.approx([0.1 / k for k in expected])
    results = []
    for kind in (Seen, LangevinDynamics):
        torch.manual_seed(0)
        results.append(kind(Gumbel(), CosineScheduler(0.1, 0.01, 10)).sample(x=torch.zeros(2, 1), n_steps=12))
    assert torch.equal(*results)


def test_schedules_survive_a_step_that_fails():
    class Failing(LangevinDynamics):
        def sample_step(self, x):
            raise RuntimeError("inside")

    schedule = CosineScheduler(0.1, 0.01, 10)
    sampler = Failing(Gumbel(), schedule)
    with pytest.raises(RuntimeError, match="inside"):
        sampler.sample(x=torch.zeros(2, 1), n_steps=3)
    assert sampler.schedulers["step_size"] is schedule


def test_an_overridden_step_draws_for_itself():
    with pytest.raises(ValueError, match="takes no generator: leave it out"):
        Counted(gaussian()).sample(dim=2, n_steps=1, generator=seeded())


def test_an_overridden_step_knows_no_temperature():
    sampler, x = Counted(gaussian()), points(2, 2)
    target = Target(sampler.model)
    with pytest.raises(ValueError, match=r"sample model.tempered\(T\) instead"):
        sampler.advance(sampler.init(x, target, None), 0, 1, target=target, temperature=2.0)


def test_an_overridden_step_needs_no_gradient():
    class Walk(Sampler):
        def sample_step(self, x):
            return x + 1

    rough = EnergyModel(lambda x: x.detach().round().sum(-1))
    assert torch.equal(Walk(rough).sample(x=torch.zeros(2, 1), n_steps=3), torch.full((2, 1), 3.0))


def test_an_overridden_step_that_diverges_is_reported():
    with pytest.warns(SamplingDivergenceWarning, match="4 of 4 chains diverged"):
        Downhill(DoubleWellEnergy(), step_size=10.0).sample(x=points(4, 2) + 5, n_steps=20)


def test_samplers_say_what_is_missing():
    class Nothing(Sampler):
        pass

    for call in (
        lambda s: s.sample(dim=2, n_steps=1),
        lambda s: s.sample_step(points(1, 2)),
        lambda s: s.sample(dim=2, n_steps=0),
    ):
        with pytest.raises(NotImplementedError, match="must define sample_step"):
            call(Nothing(gaussian()))

    class Own(BaseSampler):
        def sample(self, x=None, **options):
            return x

    with pytest.raises(NotImplementedError, match="define sample_step"):
        Own(gaussian()).sample_step(points(1, 2))


# the classes of the guides, pasted -----------------------------------------------------------------------------------


class PastedLangevin(Sampler):
    def __init__(self, energy_function, step_size=0.01, noise_scale=1.0):
        super().__init__(energy_function)
        self.step_size = step_size
        self.noise_scale = noise_scale

    def sample_step(self, x):
        score = -self.energy_function.score(x)
        noise = torch.randn_like(x) * np.sqrt(2 * self.step_size * self.noise_scale)
        return x + self.step_size * score + noise

    def sample_chain(self, dim, n_steps, n_samples=1, initial_samples=None, return_trajectory=False):
        if initial_samples is None:
            x = torch.randn(n_samples, dim, device=self.device)
        else:
            x = initial_samples.clone().to(self.device)
        if return_trajectory:
            trajectory = torch.zeros(n_steps + 1, n_samples, dim, device=self.device)
            trajectory[0] = x
        for i in range(n_steps):
            x = self.sample_step(x)
            if return_trajectory:
                trajectory[i + 1] = x
        return (x, trajectory) if return_trajectory else x

    def sample(self, n_samples, dim, n_steps=100, **kwargs):
        return self.sample_chain(dim=dim, n_steps=n_steps, n_samples=n_samples, **kwargs)


def test_the_pasted_langevin_goes_downhill():
    """On a skewed density, whose mean is 0.5772 and variance pi²/6, within 5 standard errors and a bias of O(h)."""
    torch.manual_seed(0)
    n, sampler = 10_000, PastedLangevin(Gumbel(), step_size=0.02)
    x = sampler.sample(n, 1, n_steps=300)
    assert abs(float(x.mean()) - 0.5772) < 5 * math.sqrt(math.pi**2 / 6 / n) + 0.02
    assert sampler.sample_chain(2, 5, 3, return_trajectory=True)[1].shape == (6, 3, 2)
    assert batch_sample_chain(sampler, dim=2, n_steps=2, n_samples=5, batch_size=2).shape == (5, 2)


def test_the_custom_sampler_of_the_guide():
    class CustomSampler(Sampler):
        def __init__(self, energy_function, step_size=0.01):
            super().__init__(energy_function)
            self.step_size = step_size

        def sample_step(self, x):
            return x + self.step_size * torch.randn_like(x)

        def sample_chain(self, dim, n_steps, n_samples=1):
            x = torch.randn(n_samples, dim, device=self.device)
            for _ in range(n_steps):
                x = self.sample_step(x)
            return x

        def sample(self, n_samples, dim, n_steps=100):
            return self.sample_chain(dim, n_steps, n_samples)

    sampler = CustomSampler(DoubleWellEnergy())
    assert sampler.sample(3, 2).shape == (3, 2)
    assert sampler.to("cpu") is sampler
    assert sampler.device == torch.device("cpu")


def test_the_paths_of_the_guides():
    from torchebm.losses import Loss as LossOfLosses
    from torchebm.samplers.base import Sampler as SamplerOfSamplers

    assert SamplerOfSamplers is Sampler
    assert LossOfLosses is Loss


# losses --------------------------------------------------------------------------------------------------------------


def test_a_loss_of_ones_own():
    class MeanEnergy(Loss):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def __call__(self, model, data_samples, **kwargs):
            return self.weight * model(data_samples).mean()

    assert float(MeanEnergy(2.0)(gaussian(), points(4, 2))) == pytest.approx(2 * float(gaussian()(points(4, 2)).mean()))
    with pytest.raises(TypeError, match="abstract"):
        Loss()


def network():
    return EnergyModel(network=nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1))).double()


class Recorded(LangevinDynamics):
    def sample_chain(self, **options):
        self.options = options
        self.drawn = super().sample_chain(**options)
        return self.drawn


@pytest.mark.parametrize("batch_size", [None, 5])
def test_contrastive_divergence_without_a_model(batch_size):
    sampler = Recorded(energy_function=gaussian(), step_size=0.01)
    loss_fn = ContrastiveDivergence(sampler=sampler, k=3, batch_size=batch_size)
    model, data = network(), points(8, 2)
    loss = loss_fn(model, data)
    assert loss.shape == ()
    assert sampler.energy_function is model
    assert sampler.options["n_steps"] == 3
    assert sampler.drawn.shape == (batch_size or 8, 2)
    torch.testing.assert_close(loss, model(data).mean() - model(sampler.drawn).mean(), rtol=1e-10, atol=1e-12)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not data.requires_grad


def test_contrastive_divergence_without_a_model_passes_options_on_and_trains():
    loss_fn, model = ContrastiveDivergence(sampler=LangevinDynamics(gaussian()), k=2), network()
    start = points(3, 2, seed=1)
    a, b = (loss_fn(model, points(8, 2), initial_samples=start, generator=seeded()) for _ in range(2))
    assert torch.equal(a, b)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model, points(8, 2)).backward()
        optimizer.step()
    assert any(not torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert loss_fn.state_dict() == {}


def test_contrastive_divergence_without_a_model_takes_plain_networks():
    plain = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1)).double()
    assert ContrastiveDivergence(sampler=LangevinDynamics(gaussian()), k=1)(plain, points(4, 2)).shape == ()


def test_contrastive_divergence_without_a_model_refuses_what_it_cannot_do():
    sampler = LangevinDynamics(gaussian())
    loss_fn = ContrastiveDivergence(sampler=sampler, k=1)
    with pytest.raises(TypeError, match=r"called with \(model, data\); got 1 arguments"):
        loss_fn(points(4, 2))
    with pytest.raises(ValueError, match="at least one point"):
        loss_fn(network(), points(0, 2))
    with pytest.raises(TypeError, match="only with it can buffer_size, persistent be given"):
        ContrastiveDivergence(sampler=sampler, k=1, persistent=True, buffer_size=10)
    with pytest.raises(TypeError, match="batch_size"):
        ContrastiveDivergence(gaussian(), sampler, batch_size=3)


def test_contrastive_divergence_without_a_model_replaces_no_energy():
    class Given(LangevinDynamics):
        def sample_chain(self, **options):
            return points(4, 2)

    model = network()
    model.network[2].bias.data.fill_(math.inf)
    with pytest.raises(NonFiniteEnergyError, match=r"4 of 4 energies of data .* 4 of 4 energies of negatives"):
        ContrastiveDivergence(sampler=Given(gaussian()), k=1)(model, points(4, 2))


def test_subclasses_of_the_loss_bring_their_model_as_they_like():
    class Named(ContrastiveDivergence):
        def __init__(self, network, sampler):
            super().__init__(network, sampler, k_steps=2)

    class Made(ContrastiveDivergence):
        def __init__(self, sampler):
            super().__init__(model=sampler.model, sampler=sampler)

    class Through(ContrastiveDivergence):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    class Same(ContrastiveDivergence):
        def __init__(self, model, sampler, k_steps=3):
            super().__init__(model, sampler, k_steps)

    energy = gaussian()
    sampler = LangevinDynamics(energy)
    later = [Named(network=energy, sampler=sampler), Made(sampler=sampler), Through(model=energy, sampler=sampler)]
    for loss_fn in (*later, Same(energy, sampler), Same(model=energy, sampler=sampler, k=2)):
        loss, negatives = loss_fn(points(4, 2))
        assert loss_fn.model is energy
        assert loss.shape == ()
        assert negatives.shape == (4, 2)
    assert Through(sampler=sampler, k=1)(energy, points(4, 2)).shape == ()
    assert Same(sampler=sampler, k=1)(energy, points(4, 2)).shape == ()


@pytest.mark.parametrize("kind", [HamiltonianMonteCarlo, MetropolisHastings])
def test_an_overridden_step_of_a_sampler_that_rejects_runs(kind):
    class Mine(kind):
        def sample_step(self, x):
            return super().sample_step(x)

    x, diagnostics = Mine(DoubleWellEnergy()).sample(dim=2, n_samples=3, n_steps=4, return_diagnostics=True)
    assert x.shape == (3, 2)
    assert diagnostics["diverging"].shape == (3, 4)
    with pytest.raises(ValueError, match="without model_kwargs"):
        Mine(DoubleWellEnergy()).sample(dim=2, n_samples=3, n_steps=4, model_kwargs={"c": torch.ones(3)})
