"""Annealed importance sampling: weights, paths, pilot runs, files, and what is refused."""

import math

import pytest
import torch
from torch.distributions import constraints

from torchebm.core import BaseModel, EnergyModel, GaussianMixtureModel, GaussianModel, HarmonicModel, StandardizedModel
from torchebm.core.analytic import UniformModel
from torchebm.samplers import (
    AnnealedImportanceSampling,
    AnnealingSchedule,
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    ParallelTempering,
    UnderdampedLangevin,
    gaussian_base,
    load_schedule,
    save_schedule,
)
from torchebm.samplers.annealing_files import RunFile
from torchebm.samplers.annealing_path import AnnealingPath
from torchebm.samplers.annealing_schedule import conditional_ess, next_beta, resampled

F64 = torch.float64


def target(dtype=F64):
    return GaussianModel(torch.tensor([1.0, -1.0], dtype=dtype), torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=dtype))


def base_of(dtype=F64):
    return GaussianModel(torch.zeros(2, dtype=dtype), 2 * torch.eye(2, dtype=dtype))


def mala(model, **options):
    return MetropolisAdjustedLangevin(model, **{"step_size": 0.1, **options})


def log_mean(log_weights):
    return float(log_weights.logsumexp(0)) - math.log(len(log_weights))


def standard_error(log_weights):
    w = (log_weights - log_weights.max()).exp()
    return float(w.std() / w.mean()) / math.sqrt(len(w))


# formulas -------------------------------------------------------------------------------------------------------------


def test_weights_are_the_sum_of_the_formula(generator):
    """Recomputed from the points where particles stood, with gradients and energies written out."""
    model, base, betas = target(), base_of(), (0.0, 0.3, 0.7, 1.0)
    ais = AnnealedImportanceSampling(mala(model), base, n_steps=2)
    stood = []
    draw, move = ais.draw, ais.move
    ais.draw = lambda *a: stood.append(draw(*a)) or stood[0]

    def noting(*arguments, **options):
        state, rate = move(*arguments, **options)
        stood.append(state.x)
        return state, rate

    ais.move = noting
    run = ais.run(50, ais.untuned(betas), generator=generator)
    expected = torch.zeros(50, dtype=F64)
    for k, x in enumerate(stood):
        quadratic = 0.5 * torch.einsum("ni,ij,nj->n", x - model.mean, torch.linalg.inv(model.cov), x - model.mean)
        expected += (betas[k + 1] - betas[k]) * (0.25 * x.square().sum(1) - quadratic)
    assert len(stood) == 3
    torch.testing.assert_close(run.log_weights, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run.x, stood[-1])


def test_the_path_and_its_gradient():
    base, model, beta = base_of(), target(), torch.tensor(0.3, dtype=F64)
    x = torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    path = AnnealingPath(base, model)
    torch.testing.assert_close(path(x, beta=beta), 0.7 * base(x) + 0.3 * model(x))
    energy, gradient = path.energy_and_gradient(x.detach(), beta=beta)
    (expected,) = torch.autograd.grad(path(x, beta=beta).sum(), x)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(energy, path(x, beta=beta))


def test_outside_the_box_there_is_no_density_at_any_temperature():
    box = UniformModel(torch.zeros(2), torch.ones(2))
    path = AnnealingPath(box, HarmonicModel())
    for beta in (0.5, 1.0):
        assert path(torch.full((1, 2), 2.0), beta=torch.tensor(beta)).tolist() == [torch.inf]


def test_conditional_ess_and_the_next_temperature(generator):
    gap = 3 * torch.randn(1000, dtype=F64, generator=generator)
    u = torch.exp(0.2 * gap)
    assert conditional_ess(gap, 0.2) == pytest.approx(float(u.sum() ** 2 / (1000 * u.square().sum())))
    beta = next_beta(gap, 0.1, 0.8)
    assert conditional_ess(gap, beta - 0.1) == pytest.approx(0.8, abs=1e-9)
    assert next_beta(0.01 * gap, 0.1, 0.8) == 1.0
    with_holes = torch.cat([gap, gap.new_full((500,), -torch.inf)])  # draws without a density are no help to choose by
    assert next_beta(with_holes, 0.1, 0.8) == pytest.approx(beta)


@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
def test_resampling_follows_the_weights(scheme, generator):
    """Counts within 5 standard errors of multinomial ones, and within 1 if systematic; weight 0 is never drawn."""
    log_weights = torch.tensor([[0.1, 0.0, 0.4, 0.5], [0.0, 1.0, 0.0, 0.0]], dtype=F64).log()
    index = resampled(log_weights, 1000, scheme, generator)
    counts = torch.stack([torch.bincount(row, minlength=4) for row in index]).double()
    expected = 1000 * log_weights.exp()
    assert ((counts - expected).abs() <= (1 if scheme == "systematic" else 5 * expected.sqrt())).all()
    assert counts[1].tolist() == [0, 1000, 0, 0]


# what estimates are of ------------------------------------------------------------------------------------------------


def kernels(model):
    yield mala(model)
    yield MetropolisHastings(model, proposal_scale=0.5)
    yield UnderdampedLangevin(model, step_size=0.3, metropolised=True)
    yield HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=2, momentum_refresh=0.3)


@pytest.mark.parametrize("which", range(4))
def test_forward_and_reverse_find_the_normaliser(which, generator):
    """Mean weights within 5 standard errors, with few temperatures, so that kernels must be right at each."""
    model, base = target(), base_of()
    kernel = list(kernels(model))[which]
    ais = AnnealedImportanceSampling(kernel, base, n_steps=3)
    schedule = ais.untuned([0.0, 0.1, 0.3, 0.6, 1.0])
    exact = float(model.log_z - base.log_z)
    forward = ais.run(20_000, schedule, generator=generator)
    start = model.sample(20_000, generator=generator)
    reverse = ais.run(20_000, schedule, start=start, generator=generator)
    assert abs(log_mean(forward.log_weights) - exact) < 5 * standard_error(forward.log_weights)
    assert abs(log_mean(reverse.log_weights) + exact) < 5 * standard_error(reverse.log_weights)


def test_weighted_particles_are_draws_of_the_model(generator):
    model = target()
    ais = AnnealedImportanceSampling(mala(model), base_of(), n_steps=3)
    run = ais.run(20_000, ais.untuned([0.0, 0.1, 0.3, 0.6, 1.0]), generator=generator)
    w = run.log_weights.softmax(0)
    ess = float(1 / w.square().sum())
    error = model.cov.diagonal().sqrt() / math.sqrt(ess)
    assert ((w @ run.x - model.mean).abs() < 5 * error).all()


def test_log_z_is_in_the_units_of_the_data(generator):
    """A standardised model: the base in the data's units, or one that is fitted where the sampler walks."""
    inner = GaussianMixtureModel([[-1.0, 0.0], [1.0, 0.0]], scales=0.5)
    model = StandardizedModel(inner, torch.tensor([700.0, -3.0]), torch.tensor([[50.0, 0.0], [10.0, 0.2]]))
    x = model.transform(inner.sample(2000, generator=generator))
    in_units = GaussianModel(x.mean(0).double(), x.T.double().cov())
    for base in (in_units, gaussian_base(model, x), None):
        ais = AnnealedImportanceSampling(HamiltonianMonteCarlo(model, n_leapfrog_steps=5), base)
        schedule = ais.tune(200, generator=generator).refined(40)
        for start in (None, x):
            run = ais.run(2000, schedule, start=start, generator=generator)
            ratio = log_mean(run.log_weights) if start is None else -log_mean(run.log_weights)
            assert abs(ais.base.log_z + ratio) < 5 * standard_error(run.log_weights) + 1e-3
            assert run.x.shape == x.shape


def test_a_constrained_model(generator):
    model = EnergyModel(lambda x: x.sum(-1) - 2 * x.log().sum(-1), event_shape=[1]).transformed(constraints.positive)
    ais = AnnealedImportanceSampling(HamiltonianMonteCarlo(model, n_leapfrog_steps=5))
    run = ais.run(4000, ais.tune(200, generator=generator).refined(30), generator=generator)
    assert abs(ais.base.log_z + log_mean(run.log_weights) - math.log(2)) < 5 * standard_error(run.log_weights)
    assert (run.x > 0).all()


def test_a_box_and_other_event_shapes(generator):
    """Images of 2 by 2 in a box, where half of the mass of a Gaussian is cut off in each coordinate."""
    model = EnergyModel(lambda x: 0.5 * x.square().flatten(1).sum(1), event_shape=[2, 2])
    for shape in ([2, 2], [4]):
        base = UniformModel(torch.zeros(shape), torch.full(shape, 3.0))
        ais = AnnealedImportanceSampling(mala(model, step_size=0.2), base, n_steps=2)
        run = ais.run(4000, ais.untuned([i / 30 for i in range(31)]), generator=generator)
        exact = 4 * math.log(math.sqrt(math.pi / 2) * math.erf(3 / math.sqrt(2)))
        assert abs(ais.base.log_z + log_mean(run.log_weights) - exact) < 5 * standard_error(run.log_weights)
        assert (run.x >= 0).all()
        assert (run.x <= 3).all()


# pilot runs -----------------------------------------------------------------------------------------------------------


def test_a_pilot_run_tunes_and_leaves_the_kernel_as_it_was(generator):
    model = GaussianModel(torch.zeros(2), torch.diag(torch.tensor([1e-4, 1.0])))
    kernel = HamiltonianMonteCarlo(model, step_size=0.123, n_leapfrog_steps=3)
    before = kernel.state_dict()
    ais = AnnealedImportanceSampling(kernel, GaussianModel(torch.zeros(2), torch.eye(2)))
    schedule = ais.tune(300, generator=generator)
    assert kernel.state_dict() == before
    sizes = [k["parameters"]["step_size"] for k in schedule.kernels]
    assert sizes[-1] != 0.123
    assert all(abs(rate - 0.8) < 0.2 for rate in schedule.acceptance)
    ratio = schedule.kernels[-1]["mass"][0] / schedule.kernels[-1]["mass"][1]
    assert 1e3 < ratio < 1e5
    run = ais.run(300, schedule, generator=generator)  # which moves as was tuned, at each temperature
    assert ((run.acceptance - 0.8).abs() < 0.2).all()
    assert kernel.state_dict() == before


def test_more_overlap_means_fewer_temperatures(generator):
    model = target(torch.float32)
    lengths = []
    for share in (0.5, 0.9, 0.99):
        ais = AnnealedImportanceSampling(mala(model), base_of(torch.float32))
        lengths.append(len(ais.tune(300, conditional_ess=share, n_warmup=5, generator=generator)))
    assert lengths[0] < lengths[1] < lengths[2]


def test_given_temperatures_are_kept(generator):
    ais = AnnealedImportanceSampling(mala(target()), base_of())
    schedule = ais.tune(100, betas=[0.0, 0.25, 1.0], n_warmup=5, generator=generator)
    assert schedule.betas == (0.0, 0.25, 1.0)


def test_refinement():
    kernels = tuple({"k": k} for k in range(2))
    schedule = AnnealingSchedule((0.0, 0.2, 1.0), kernels, (0.5, 0.6))
    fine = schedule.refined(8)
    assert fine.betas == pytest.approx((0.0, 0.05, 0.1, 0.15, 0.2, 0.4, 0.6, 0.8, 1.0))
    assert [kernel["k"] for kernel in fine.kernels] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert schedule.refined(2) == schedule
    assert schedule.refined(1).betas == (0.0, 1.0)
    assert schedule.refined(1).kernels == ({"k": 1},)


def test_a_schedule_is_saved(tmp_path, generator):
    for kernel in (HamiltonianMonteCarlo(target()), MetropolisHastings(target())):
        ais = AnnealedImportanceSampling(kernel, base_of())
        schedule = ais.tune(100, generator=generator)
        save_schedule(tmp_path / "schedule.safetensors", schedule)
        loaded = load_schedule(tmp_path / "schedule.safetensors")
        assert loaded.betas == schedule.betas
        runs = [ais.run(20, s, generator=torch.Generator().manual_seed(1)).log_weights for s in (schedule, loaded)]
        assert torch.equal(*runs)


# randomness, batches, files -------------------------------------------------------------------------------------------


def test_same_generator_same_bits_and_the_global_stream_is_left_alone():
    ais = AnnealedImportanceSampling(mala(target()), base_of())
    schedule, before = ais.untuned([0.0, 0.5, 1.0]), torch.get_rng_state()
    one, two = (ais.run(30, schedule, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    ais.tune(50, n_warmup=3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one.log_weights, two.log_weights)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_have_streams_of_their_own():
    ais = AnnealedImportanceSampling(mala(target()), base_of())
    schedule = ais.untuned([0.0, 0.5, 1.0])
    whole = ais.run(25, schedule, batch_size=10, generator=torch.Generator().manual_seed(3))
    part = ais.run(10, schedule, generator=torch.Generator().manual_seed(3))
    assert whole.log_weights.shape == (25,)
    assert torch.equal(whole.log_weights[:10], part.log_weights)
    assert len(whole.log_weights.unique()) == 25


class Killed(Exception):
    pass


@pytest.mark.parametrize("kernel", ["mala", "persistent"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, kernel, reverse):
    model = target()
    moves = mala(model) if kernel == "mala" else HamiltonianMonteCarlo(model, momentum_refresh=0.3)
    ais = AnnealedImportanceSampling(moves, base_of(), n_steps=2)
    schedule = ais.untuned([i / 5 for i in range(6)])
    start = model.sample(25, generator=torch.Generator().manual_seed(1)) if reverse else None
    options = {"batch_size": 10, "start": start}
    seeds = iter([3, 3, 4, 5, 6, 7, 8])  # the first file keeps its seed, whatever those who continue it bring
    fresh = lambda: torch.Generator().manual_seed(next(seeds))  # noqa: E731
    expected = ais.run(25, schedule, generator=fresh(), **options)
    save, file = RunFile.save, tmp_path / "run.safetensors"
    for deadly in (3, 1, 5, 2):  # savings until the process dies, each time anew
        left = [deadly]

        def dying(self, *arguments, left=left):
            save(self, *arguments)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(RunFile, "save", dying)
        with pytest.raises(Killed):
            ais.run(25, schedule, generator=fresh(), checkpoint=file, save_every=0.0, **options)
    monkeypatch.setattr(RunFile, "save", save)
    done = ais.run(25, schedule, generator=fresh(), checkpoint=file, **options)
    again = ais.run(25, schedule, generator=fresh(), checkpoint=file, **options)
    for run in (done, again):
        assert all(torch.equal(a, b) for a, b in zip(run, expected, strict=True))


def test_a_file_of_another_run_is_refused(tmp_path):
    ais, file = AnnealedImportanceSampling(mala(target()), base_of()), tmp_path / "run.safetensors"
    ais.run(5, ais.untuned([0.0, 1.0]), checkpoint=file)
    with pytest.raises(ValueError, match="another run: betas"):
        ais.run(5, ais.untuned([0.0, 0.5, 1.0]), checkpoint=file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="is damaged"):
        ais.run(5, ais.untuned([0.0, 1.0]), checkpoint=file)


def test_compiled_kernels_see_beta_as_an_input(generator):
    """One compilation for all temperatures, and the same weights."""
    model = target()
    kernel = mala(model)
    ais = AnnealedImportanceSampling(kernel, base_of(), n_steps=8)
    schedule = ais.untuned([i / 10 for i in range(11)])
    eager = ais.run(20, schedule, generator=torch.Generator().manual_seed(1))
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    kernel.compile(block=8, backend=backend)
    compiled = ais.run(20, schedule, generator=torch.Generator().manual_seed(1))
    assert len(traced) == 1
    torch.testing.assert_close(compiled.log_weights, eager.log_weights)


# refusals -------------------------------------------------------------------------------------------------------------


class Broken(BaseModel):
    event_shape = torch.Size([2])

    def forward(self, x):
        return torch.where(x[:, 0] > 0, torch.nan, x.square().sum(1))


def test_kernels_that_are_refused():
    model = target()
    with pytest.raises(ValueError, match="LangevinDynamics has no accept test"):
        AnnealedImportanceSampling(LangevinDynamics(model))
    with pytest.raises(ValueError, match="UnderdampedLangevin has no accept test"):
        AnnealedImportanceSampling(UnderdampedLangevin(model))
    with pytest.raises(ValueError, match="replicas"):
        AnnealedImportanceSampling(ParallelTempering(HamiltonianMonteCarlo(model)))
    with pytest.raises(TypeError, match="kernel must be a sampler"):
        AnnealedImportanceSampling(model)


def test_bases_that_are_refused(generator):
    kernel = mala(target())
    with pytest.raises(TypeError, match="exact draws"):
        AnnealedImportanceSampling(kernel, EnergyModel(lambda x: x.sum(-1)))
    with pytest.raises(ValueError, match="points of shape"):
        AnnealedImportanceSampling(kernel, GaussianModel(torch.zeros(3), torch.eye(3)))
    with pytest.raises(ValueError, match="does not know its event shape"):
        AnnealedImportanceSampling(mala(EnergyModel(lambda x: x.square().sum(-1))))
    box = AnnealedImportanceSampling(kernel, UniformModel(torch.full((2,), 50.0), torch.full((2,), 51.0)))
    with pytest.raises(ValueError, match="lie where the base has no density"):
        box.run(2, box.untuned([0.0, 1.0]), start=torch.zeros(2, 2, dtype=F64))
    apart = UniformModel(torch.full((2,), -9.0), torch.full((2,), -8.0))
    cut = EnergyModel(lambda x: target()(x) + torch.where(x[:, 0] > 0, 0.0, torch.inf), event_shape=[2])
    with pytest.raises(ValueError, match="finite at 0 of 50 draws"):
        AnnealedImportanceSampling(mala(cut, dtype=F64), apart).tune(50, generator=generator)


def test_energies_that_are_nan_are_refused(generator):
    ais = AnnealedImportanceSampling(mala(Broken()))
    with pytest.raises(ValueError, match="NaN or -inf at"):
        ais.tune(50, generator=generator)
    with pytest.raises(ValueError, match="weights are NaN or infinite"):
        ais.run(50, ais.untuned([0.0, 1.0]), generator=generator)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ais: ais.untuned([0.1, 1.0]), "betas must rise from 0.0 to 1.0"),
        (lambda ais: ais.untuned([0.0, 0.5, 0.5, 1.0]), "betas must rise"),
        (lambda ais: ais.tune(conditional_ess=1.0), "less than 1"),
        (lambda ais: ais.run(0, ais.untuned([0.0, 1.0])), "n_particles must be at least 1"),
        (lambda ais: ais.run(3, ais.untuned([0.0, 1.0]), start=torch.zeros(2, 2)), "n_particles=3 draws"),
        (lambda ais: ais.tune(50, max_temperatures=2), "after 2 temperatures"),
        (lambda ais: AnnealedImportanceSampling(ais.kernel, ais.base, step_spread=3.0), "step_spread needs n_steps=2"),
        (lambda ais: gaussian_base(ais.kernel.model, torch.zeros(1, 2)), "at least two points"),
    ],
)
def test_arguments_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(AnnealedImportanceSampling(mala(target()), base_of()))
