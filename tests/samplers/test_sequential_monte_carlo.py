"""Sequential Monte Carlo: its estimates against exact ones, resampling, waste-free runs, files and refusals."""

import math

import pytest
import torch

from torchebm.core import EnergyModel, GaussianMixtureModel, GaussianModel
from torchebm.core.analytic import UniformModel
from torchebm.samplers import (
    HamiltonianMonteCarlo,
    LangevinDynamics,
    MetropolisAdjustedLangevin,
    MetropolisHastings,
    SequentialMonteCarlo,
    annealing_schedule,
)
from torchebm.samplers.annealing_files import RunFile
from torchebm.samplers.annealing_schedule import resampled

F64 = torch.float64
LADDER = [0.0, 0.1, 0.3, 0.6, 1.0]


def target():
    return GaussianModel(torch.tensor([1.0, -1.0], dtype=F64), torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=F64))


def base_of():
    return GaussianModel(torch.zeros(2, dtype=F64), 2 * torch.eye(2, dtype=F64))


def mala(model, **options):
    return MetropolisAdjustedLangevin(model, **{"step_size": 0.1, **options})


WAYS = {
    "systematic": {"n_steps": 2},
    "multinomial": {"n_steps": 2, "resampling": "multinomial"},
    "always": {"n_steps": 2, "ess_threshold": 1.0},
    "never": {"n_steps": 2, "ess_threshold": 0.0},
    "waste-free": {"n_steps": 5, "waste_free": True},
    "waste-free multinomial": {"n_steps": 5, "waste_free": True, "resampling": "multinomial"},
}


@pytest.mark.parametrize("way", WAYS)
def test_ratios_of_normalisers_are_unbiased(way, generator):
    """The mean over 800 small groups, within 5 standard errors, though the logarithm of each is far too small."""
    model, base = target(), base_of()
    smc = SequentialMonteCarlo(mala(model), base, **WAYS[way])
    run = smc.run(20, smc.untuned(LADDER), n_groups=800, generator=generator)
    ratio = run.log_ratio.exp()
    exact = math.exp(float(model.log_z - base.log_z))
    assert abs(float(ratio.mean()) - exact) < 5 * float(ratio.std()) / math.sqrt(800)
    assert float(run.log_ratio.mean()) < math.log(exact)


@pytest.mark.parametrize("way", WAYS)
def test_particles_are_draws_of_the_model(way, generator):
    """Weighted moments over groups of 200, within 5 standard errors that the scatter of groups gives."""
    model = target()
    smc = SequentialMonteCarlo(mala(model), base_of(), **WAYS[way])
    run = smc.run(200, smc.untuned(LADDER), n_groups=100, generator=generator)
    torch.testing.assert_close(run.log_weights.exp().sum(1), torch.ones(100, dtype=F64))
    z = run.log_ratio.exp().view(-1, 1)  # groups count by their estimate of the normaliser, which makes this unbiased
    w = run.log_weights.exp().unsqueeze(2)
    error = z * (w * (run.x - model.mean)).sum(1)
    assert (error.mean(0).abs() < 5 * error.std(0) / 10).all()
    spread = z * (w * ((run.x - model.mean).square() - model.cov.diagonal())).sum(1)
    assert (spread.mean(0).abs() < 5 * spread.std(0) / 10).all()


def test_momenta_are_resampled_with_their_particles(generator):
    """Also where few are resampled and many come back; within 5 standard errors."""
    model, base = target(), base_of()
    kernel = HamiltonianMonteCarlo(model, step_size=0.3, n_leapfrog_steps=2, momentum_refresh=0.3)
    smc = SequentialMonteCarlo(kernel, base, n_steps=5, waste_free=True)
    ratio = smc.run(20, smc.untuned(LADDER), n_groups=400, generator=generator).log_ratio.exp()
    assert abs(float(ratio.mean()) - math.exp(float(model.log_z - base.log_z))) < 5 * float(ratio.std()) / 20


def test_one_uniform_a_group_makes_systematic_resampling_unbiased(generator, monkeypatch):
    """Of 4000 groups that draw one of two; within 5 standard errors. Weight 0 is not drawn by a uniform of 0 either."""
    log_weights = torch.tensor([[0.3, 0.7]], dtype=F64).log().expand(4000, 2)
    share = float(resampled(log_weights, 1, "systematic", generator).double().mean())
    assert abs(share - 0.7) < 5 * math.sqrt(0.21 / 4000)
    monkeypatch.setattr(annealing_schedule, "uniform", lambda shape, **options: torch.zeros(shape, dtype=F64))
    for scheme in ("systematic", "multinomial"):
        assert resampled(torch.tensor([[-torch.inf, 0.0]]), 1, scheme, None).tolist() == [[1]]


def test_without_resampling_it_is_annealed_importance_sampling(generator):
    """The estimate is the mean of the weights that particles would have, recomputed where they stood."""
    model, base = target(), base_of()
    smc = SequentialMonteCarlo(mala(model), base, ess_threshold=0.0)
    stood, draw, move = [], smc.draw, smc.move
    smc.draw = lambda *a: stood.append(draw(*a)) or stood[0]

    def noting(*arguments, **options):
        state, rate = move(*arguments, **options)
        stood.append(state.x)
        return state, rate

    smc.move = noting
    run = smc.run(30, smc.untuned(LADDER), n_groups=2, generator=generator)
    log_w = sum((LADDER[k + 1] - LADDER[k]) * (base(x) - model(x)) for k, x in enumerate(stood[:-1]))
    torch.testing.assert_close(run.log_ratio, log_w.view(2, 30).logsumexp(1) - math.log(30), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run.log_weights, log_w.view(2, 30).log_softmax(1))
    torch.testing.assert_close(run.x.flatten(0, 1), stood[-1])


def test_step_sizes_are_spread_over_the_transitions_at_a_temperature(generator):
    """Geometrically, from the tuned one down; also along the transitions that continue a run. And no bias by it."""
    model, base = target(), base_of()
    kernel = mala(model, step_size=0.2)
    smc = SequentialMonteCarlo(kernel, base, n_steps=3, step_spread=100.0)
    schedule = smc.untuned(LADDER)
    run = smc.run(20, schedule, n_groups=400, generator=generator)
    ratio = run.log_ratio.exp()
    assert abs(float(ratio.mean()) - math.exp(float(model.log_z - base.log_z))) < 5 * float(ratio.std()) / 20
    sizes, step = [], kernel.step
    kernel.step = lambda *a, step_size, **o: sizes.append(step_size) or step(*a, step_size=step_size, **o)
    smc.run(20, smc.untuned([0.0, 0.5, 1.0]), generator=generator)
    assert sizes == pytest.approx([0.2, 0.02, 0.002] * 2)
    sizes.clear()
    smc.continued(run, schedule, 5, generator=generator)
    assert sizes == pytest.approx([0.2, 0.02, 0.002, 0.2, 0.02])


def test_effective_sample_sizes_are_noted(generator):
    model, base = target(), base_of()
    smc = SequentialMonteCarlo(mala(model), base)
    run = smc.run(100, smc.untuned([0.0, 0.2, 1.0]), n_groups=3, generator=generator)
    assert run.ess.shape == (3, 2)
    assert ((run.ess > 0) & (run.ess <= 1)).all()
    assert run.acceptance.shape == (2,)
    assert ((run.acceptance > 0.2) & (run.acceptance < 1)).all()


def test_waste_free_keeps_all_points_along_chains(generator):
    """Points of one chain are neighbours in the population; the kernel makes n_steps - 1 transitions."""
    smc = SequentialMonteCarlo(MetropolisHastings(target(), proposal_scale=1e-6), base_of(), n_steps=5, waste_free=True)
    run = smc.run(20, smc.untuned([0.0, 1.0]), n_groups=3, generator=generator)
    chains = run.x.view(3, 4, 5, 2)
    assert ((chains - chains[:, :, :1]).abs() < 1e-4).all()
    assert (chains[:, :, 0] != chains[:, :, 4]).any()


def test_groups_do_not_mix(generator):
    """Populations of which one lies where there is no density any more take no particles from others."""
    model = EnergyModel(lambda x: torch.where(x[:, 0] > 0, 0.5 * x.square().sum(1), torch.inf), event_shape=[1])
    smc = SequentialMonteCarlo(mala(model), GaussianModel(torch.zeros(1), torch.eye(1)))
    run = smc.run(50, smc.untuned([0.0, 0.5, 1.0]), n_groups=200, generator=generator)
    alive = run.log_weights > -torch.inf
    assert not alive.all()  # a group with more than half of its particles alive is not resampled
    assert (run.x[alive] > 0).all()
    ratio = run.log_ratio.exp()
    assert abs(float(ratio.mean()) - 0.5) < 5 * float(ratio.std()) / math.sqrt(200)
    with pytest.raises(ValueError, match="groups were left without any weight"):
        smc.run(2, smc.untuned([0.0, 0.5, 1.0]), n_groups=200, generator=generator)


def test_draws_that_continue_a_run(generator):
    """Both modes in the right proportion, within 5 standard errors of 20 groups; in a box as well."""
    model = GaussianMixtureModel([[-3.0], [3.0]], scales=0.5, weights=[0.3, 0.7])
    box = UniformModel(torch.full((1,), -6.0), torch.full((1,), 6.0))
    smc = SequentialMonteCarlo(HamiltonianMonteCarlo(model, n_leapfrog_steps=5), box)
    schedule = smc.tune(300, generator=generator)
    run = smc.run(200, schedule, n_groups=20, generator=generator)
    x = smc.continued(run, schedule, 10, batch_size=1500, generator=generator)
    assert x.shape == (4000, 1)
    share = (x > 0).double().view(20, 200).mean(1)
    assert abs(float(share.mean()) - 0.7) < 5 * float(share.std()) / math.sqrt(20)


def test_same_generator_same_bits_and_batches_of_groups():
    smc = SequentialMonteCarlo(mala(target()), base_of())
    schedule, before = smc.untuned(LADDER), torch.get_rng_state()
    run = lambda **o: smc.run(10, schedule, generator=torch.Generator().manual_seed(3), **o)  # noqa: E731
    assert all(torch.equal(a, b) for a, b in zip(run(n_groups=5), run(n_groups=5), strict=True))
    some, others = run(n_groups=5, batch_size=29), run(n_groups=2)
    assert torch.equal(some.log_ratio[:2], others.log_ratio)
    assert len(some.log_ratio.unique()) == 5
    assert torch.equal(torch.get_rng_state(), before)


class Killed(Exception):
    pass


@pytest.mark.parametrize("way", ["systematic", "waste-free"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, way):
    smc = SequentialMonteCarlo(mala(target()), base_of(), **WAYS[way])
    schedule, file = smc.untuned(LADDER), tmp_path / "run.safetensors"
    options = {"n_groups": 3, "batch_size": 20}
    expected = smc.run(10, schedule, generator=torch.Generator().manual_seed(3), **options)
    save, left = RunFile.save, [3]

    def dying(self, *arguments):
        save(self, *arguments)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(RunFile, "save", dying)
    for seed, deadly in ((3, 3), (4, 2), (5, 1)):
        left[0] = deadly
        with pytest.raises(Killed):
            smc.run(10, schedule, generator=torch.Generator().manual_seed(seed), checkpoint=file, save_every=0.0,
                    **options)  # fmt: skip
    monkeypatch.setattr(RunFile, "save", save)
    done = smc.run(10, schedule, generator=torch.Generator().manual_seed(6), checkpoint=file, **options)
    assert all(torch.equal(a, b) for a, b in zip(done, expected, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: SequentialMonteCarlo(k, resampling="residual"), '"systematic" or "multinomial"; got'),
        (lambda k: SequentialMonteCarlo(k, waste_free=True), "n_steps=2 or more"),
        (lambda k: SequentialMonteCarlo(k, ess_threshold=1.1), "ess_threshold must be at most 1"),
        (lambda k: SequentialMonteCarlo(LangevinDynamics(k.model)), "no accept test"),
        (lambda k: run_of(SequentialMonteCarlo(k, waste_free=True, n_steps=3), 10), "multiple of n_steps=3"),
        (lambda k: run_of(SequentialMonteCarlo(k), 10, batch_size=9), "batch_size=9 is less than n_particles=10"),
        (lambda k: run_of(SequentialMonteCarlo(k), 1), "n_particles must be at least 2"),
    ],
)
def test_arguments_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(mala(target()))


def run_of(smc, n, **options):
    return smc.run(n, smc.untuned([0.0, 1.0]), **options)
