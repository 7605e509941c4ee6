"""log Z by every method, exactly and by estimates; intervals, warnings, files, and energies that are refused."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from torchebm.core import (
    AckleyModel,
    EnergyModel,
    FunnelModel,
    GaussianMixtureModel,
    GaussianModel,
    HarmonicModel,
    RosenbrockModel,
    StandardizedModel,
)
from torchebm.core.analytic import UniformModel
from torchebm.evaluation import (
    LogZ,
    NormalizerWarning,
    UnboundedEnergyError,
    annealed_log_z,
    bridge_sampling,
    check_tails,
    grouped_log_z,
    log_z,
    log_z_by_enumeration,
    log_z_by_grid,
    weight_ess,
)
from torchebm.evaluation.estimates import annealed_bound, student_quantile
from torchebm.models import MLPEnergy
from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics
from torchebm.samplers.annealing_files import RunFile

F64 = torch.float64


def two_modes():
    """Away from 0, so that it matters what the base is fitted to."""
    return GaussianMixtureModel([[8.0, 5.0], [12.0, 5.0]], scales=0.5) + 1.25  # log Z = -1.25


# exact ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_grids_find_a_gaussian(dim):
    cov = torch.eye(dim, dtype=F64) + 0.5
    model = GaussianModel(torch.ones(dim, dtype=F64), cov)
    found = log_z_by_grid(model, [-9.0] * dim, [11.0] * dim, n_points={1: 400, 2: 200, 3: 80}[dim])
    assert found.estimate == pytest.approx(float(model.log_z), abs=1e-6)
    assert found.interval[0] <= float(model.log_z) + 1e-9
    assert found.interval[1] >= float(model.log_z) - 1e-9


def test_grids_are_in_the_units_of_the_data_and_know_walls():
    model = StandardizedModel(two_modes(), torch.tensor([700.0, -3.0]), torch.tensor([[50.0, 0.0], [10.0, 0.2]]))
    assert log_z_by_grid(model, [900.0, 30.0], [1500.0, 170.0], n_points=600).estimate == pytest.approx(-1.25, abs=1e-3)
    box = UniformModel(torch.zeros(2), torch.tensor([2.0, 3.0]))
    assert log_z_by_grid(box, [0.0, 0.0], [2.0, 3.0], n_points=100).estimate == pytest.approx(math.log(6))


def test_grids_refuse_mass_beyond_and_cells_too_wide():
    model = GaussianModel(torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match="of the mass lies in the margin"):
        log_z_by_grid(model, [-2.0, -2.0], [2.0, 2.0], n_points=100)
    with pytest.raises(ValueError, match="of the mass lies in the margin"):
        log_z_by_grid(EnergyModel(lambda x: torch.log1p(x.square().sum(-1))), [-99.0] * 2, [99.0] * 2, n_points=400)
    with pytest.raises(ValueError, match="halving n_points=20 changes log Z"):
        log_z_by_grid(model, [-40.0, -40.0], [40.0, 40.0], n_points=20)
    with pytest.raises(ValueError, match="1 to 3 coordinates"):
        log_z_by_grid(model, [0.0] * 4, [1.0] * 4)
    with pytest.raises(ValueError, match="must be even"):
        log_z_by_grid(model, [0.0], [1.0], n_points=5)
    with pytest.raises(ValueError, match="no mass in the box, or energies"):
        log_z_by_grid(EnergyModel(lambda x: x.sum(-1) * torch.nan), [0.0], [1.0], n_points=10)


def test_enumeration(generator):
    """An Ising chain by the transfer matrix."""
    j, d = 0.7, 9
    chain = EnergyModel(lambda x: -j * (x[:, 1:] * x[:, :-1]).sum(1))
    exact = d * math.log(2) + (d - 1) * math.log(math.cosh(j))
    assert log_z_by_enumeration(chain, d, values=(-1.0, 1.0)).estimate == pytest.approx(exact, rel=1e-6)
    field = torch.randn(2, 3, generator=generator)
    image = EnergyModel(lambda x: (x * field).flatten(1).sum(1), event_shape=[2, 3])
    exact = float(torch.log1p(torch.exp(-field)).sum())
    assert log_z_by_enumeration(image, 6).estimate == pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="at most"):
        log_z_by_enumeration(image, 60)
    with pytest.raises(ValueError, match="got dim=5"):
        log_z_by_enumeration(image, 5)


# the parts of estimates -----------------------------------------------------------------------------------------------


def test_student_quantiles():
    for degrees in (1, 2, 3, 4, 7, 20, 500):
        assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-6)


def test_intervals_of_groups(generator):
    """By the formula; and they hold the logarithm of the mean of 10 skewed numbers in 480 to 590 of 600 cases."""
    log_ratio = torch.randn(10, dtype=F64, generator=generator)
    ratio = log_ratio.exp()
    bound = grouped_log_z(log_ratio, 3.0)
    half = stats.t.ppf(0.975, 9) * float(ratio.std() / ratio.mean()) / math.sqrt(10)
    assert bound.estimate == pytest.approx(3 + float(ratio.mean().log()))
    assert bound.interval == pytest.approx((bound.estimate - half, bound.estimate + half))
    many = 0.3 * torch.randn(600, 10, dtype=F64, generator=generator) - 0.045  # means of 1
    held = sum(low <= 0 <= high for _, (low, high) in (grouped_log_z(some, 0.0) for some in many))
    assert 530 < held < 598
    with pytest.raises(ValueError, match="two groups or more"):
        grouped_log_z(log_ratio[:1], 0.0)


def test_bootstrap_intervals(generator):
    """Near those of the normal approximation for many even weights; mirrored for reverse runs; by chains if asked."""
    log_w = 0.2 * torch.randn(5000, dtype=F64, generator=generator)
    w = log_w.exp()
    half = 1.96 * float(w.std() / w.mean()) / math.sqrt(5000)
    bound = annealed_bound(log_w, 2.0, generator=generator)
    assert bound.estimate == pytest.approx(2 + float(w.mean().log()))
    assert bound.interval == pytest.approx((bound.estimate - half, bound.estimate + half), abs=0.1 * half)
    back = annealed_bound(log_w, 2.0, reverse=True, generator=generator)
    assert back.estimate == pytest.approx(2 - float(w.mean().log()))
    assert back.interval[0] < back.estimate < back.interval[1]
    stuck = log_w[:500].repeat_interleave(10)  # ten draws of a chain that does not move are one
    one, chains = (annealed_bound(stuck, 0.0, n_chains=n, generator=generator) for n in (None, 500))
    wider = (chains.interval[1] - chains.interval[0]) / (one.interval[1] - one.interval[0])
    assert wider == pytest.approx(math.sqrt(10), rel=0.15)


def test_weights_of_several_runs_may_be_joined(generator):
    log_w = torch.randn(100, dtype=F64, generator=generator)
    joined = annealed_log_z(torch.cat([log_w[:30], log_w[30:]]), 0.5, generator=generator)
    assert joined.estimate == pytest.approx(0.5 + float(log_w.exp().mean().log()))
    assert joined.ess == pytest.approx(float(log_w.exp().sum() ** 2 / log_w.exp().square().sum()))
    assert weight_ess(torch.tensor([0.0, 0.0, -torch.inf])) == pytest.approx(2.0)


def test_the_bridge_solves_its_equation(generator):
    l1, l2 = torch.randn(300, dtype=F64, generator=generator) + 1, torch.randn(200, dtype=F64, generator=generator)
    r = math.exp(bridge_sampling(l1, l2).log_ratio)
    s1, s2 = 0.6, 0.4
    above = (l2.exp() / (s1 * l2.exp() + s2 * r)).mean()
    below = (1 / (s1 * l1.exp() + s2 * r)).mean()
    assert float(above / below) == pytest.approx(r, rel=1e-8)


def test_the_error_of_a_bridge_between_chains_is_that_of_their_means(generator):
    chains = torch.randn(10, 30, dtype=F64, generator=generator) + torch.randn(10, 1, dtype=F64, generator=generator)
    l2 = torch.randn(200, dtype=F64, generator=generator)
    found = bridge_sampling(chains, l2)
    s1, s2, r = found.ess / (found.ess + 200), 200 / (found.ess + 200), math.exp(found.log_ratio)
    f1, f2 = l2.exp() / r / (s1 * l2.exp() / r + s2), 1 / (s1 * chains.exp() / r + s2)
    means = f2.mean(1)
    error = float(f1.var() / f1.mean() ** 2) / 200 + float(means.var() / f2.mean() ** 2) / 10
    half = stats.t.ppf(0.975, 9) * math.sqrt(error)
    assert found.interval == pytest.approx((found.log_ratio - half, found.log_ratio + half))
    assert 8 < found.ess < 40


def test_bridge_intervals_hold_the_exact_value(generator):
    """Independent draws, and draws in chains that depend on each other: 200 cases each; 95 % give 170 at least."""
    model, base = GaussianModel(torch.zeros(2), 2 * torch.eye(2)), GaussianModel(torch.ones(2), torch.eye(2))
    ratio = lambda x: base(x) - model(x)  # noqa: E731
    held = {"independent": 0, "chains": 0, "taken to be independent": 0}
    for _ in range(200):
        y = base.sample(400, generator=generator)
        x = model.sample(400, generator=generator)
        drawn = [model.sample(20, generator=generator)]
        for _ in range(19):  # an autoregression that leaves the model invariant
            drawn.append(0.9 * drawn[-1] + math.sqrt(1 - 0.81) * model.sample(20, generator=generator))
        chains = torch.stack([ratio(some) for some in drawn], 1)  # [chain, draw]
        for name, at_model in (("independent", ratio(x)), ("chains", chains),
                               ("taken to be independent", chains.flatten())):  # fmt: skip
            low, high = bridge_sampling(at_model, ratio(y)).interval
            held[name] += low <= float(model.log_z - base.log_z) <= high
    assert held["independent"] >= 170
    assert held["chains"] >= 170
    assert held["taken to be independent"] < 170
    assert bridge_sampling(chains, ratio(y)).ess < 200


# the user's entry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ais", "smc", "bridge"])
def test_methods_agree_with_what_is_known(method, generator):
    """Within three times the half width of the interval, an event of one in 10^8."""
    model = two_modes()
    x = model.sample(1000, generator=generator)
    found = log_z(model, method, samples=x, n_particles=500, generator=generator)
    middle, (low, high) = found.estimate, found.interval
    assert middle - 3 * (middle - low) <= -1.25 <= middle + 3 * (high - middle)
    assert high - low < 0.6
    assert f"log Z = {middle:.3f} [{low:.3f}, {high:.3f}], by " in str(found)
    assert found.as_dict()["interval"] == [low, high]
    assert float(found) == middle
    if method == "ais":
        assert found.lower.estimate == middle
        assert found.gap < 0.3
        assert "at least" in str(found)
        assert "at most" in str(found)


@pytest.mark.parametrize("method", ["ais", "bridge"])
def test_draws_of_chains(method, generator):
    model = two_modes()
    chains = model.sample(400, generator=generator).view(20, 20, 2)
    found = log_z(model, method, trajectory=chains, n_particles=90, generator=generator)
    assert abs(found.estimate + 1.25) < 2 * (found.interval[1] - found.interval[0])


def test_without_samples_chains_make_them(generator):
    model = StandardizedModel(two_modes(), torch.tensor([700.0, -3.0]), torch.tensor([[50.0, 0.0], [10.0, 0.2]]))
    near = model.transform(two_modes().sample(300, generator=generator))
    found = log_z(model, n_particles=300, n_long_run=20, data=near, generator=generator)
    assert abs(found.estimate + 1.25) < 2 * (found.interval[1] - found.interval[0])
    assert "then 20 transitions each" in found.notes[0]
    alone = log_z(model, data=near, n_particles=50, reverse=False, generator=generator)
    assert alone.upper is None
    assert alone.gap is None


def test_a_box_and_a_schedule_of_its_own(generator):
    model = EnergyModel(lambda x: 0.0 * x.sum(-1), event_shape=[2])  # no normaliser but in a box
    box = UniformModel(torch.zeros(2), torch.tensor([2.0, 3.0]))
    found = log_z(model, "smc", base=box, n_particles=100, generator=generator)
    assert found.estimate == pytest.approx(math.log(6), abs=1e-6)
    assert "inside the box" in found.notes[0]


def test_warnings_say_what_is_wrong(generator):
    model = GaussianModel(torch.full((8,), 2.0), 0.1 * torch.eye(8))
    x = model.sample(100, generator=generator)
    base = GaussianModel(torch.zeros(8), torch.eye(8))
    options = {"samples": x, "base": base, "n_particles": 100, "n_pilot": 100, "generator": generator}
    with pytest.warns(NormalizerWarning) as caught:
        found = log_z(model, n_temperatures=3, **options)
    said = "\n".join(str(warning.message) for warning in caught)
    assert "nats apart: more temperatures" in said
    assert "of 100 particles, so that the interval is too narrow" in said
    assert "\n".join(found.notes) == said
    assert found.gap > 1
    assert found.lower.estimate < float(model.log_z) < found.upper.estimate
    wrong = x + torch.randn(x.shape, generator=generator)
    with pytest.warns(NormalizerWarning) as caught:
        log_z(model, n_temperatures=20, **{**options, "samples": wrong})
    assert any("lies below the lower one" in str(warning.message) for warning in caught)
    far = GaussianModel(torch.full((8,), 3.0), torch.eye(8))
    with pytest.warns(NormalizerWarning, match="nats wide"):
        log_z(far, "bridge", base=base, samples=far.sample(50, generator=generator), generator=generator)


class Killed(Exception):
    pass


def test_a_killed_estimate_goes_on_bit_for_bit(tmp_path, monkeypatch):
    model, options = two_modes(), {"n_particles": 60, "batch_size": 25, "n_pilot": 50, "n_long_run": 3}
    options["base"] = GaussianModel(torch.tensor([10.0, 5.0]), 4 * torch.eye(2))
    expected = log_z(model, generator=torch.Generator().manual_seed(3), **options)
    done, left = RunFile.done, [0]

    def dying(self, *arguments):
        done(self, *arguments)
        left[0] -= self.path is not None
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(RunFile, "done", dying)
    for seed, deadly in ((3, 2), (4, 3)):  # in the forward run, and in the reverse one
        left[0] = deadly
        with pytest.raises(Killed):
            log_z(model, generator=torch.Generator().manual_seed(seed), checkpoint=tmp_path / "z", **options)
    monkeypatch.setattr(RunFile, "done", done)
    (tmp_path / "z" / ".reverse.safetensors.123").touch()  # what a kill in the middle of a saving leaves
    found = log_z(model, generator=torch.Generator().manual_seed(5), checkpoint=tmp_path / "z", **options)
    assert found == expected
    names = {"seed", "estimate", "schedule", "draws", "forward", "reverse"}
    assert {path.name for path in (tmp_path / "z").iterdir()} == {f"{name}.safetensors" for name in names}


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"model": HarmonicModel(dim=2) + 5.0}, "model"),
        ({"base": GaussianModel(torch.zeros(2), 2 * torch.eye(2))}, "base"),
        ({"data": torch.ones(30, 2)}, "data"),
        ({"n_pilot": 60}, "n_pilot"),
    ],
)
def test_a_folder_of_another_estimate_is_refused(tmp_path, change, differs):
    """What was saved would be the answer to another question."""
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    options = {"model": HarmonicModel(dim=2), "data": x, "base": GaussianModel(torch.zeros(2), torch.eye(2)),
               "n_particles": 50, "n_pilot": 50, "reverse": False, "checkpoint": tmp_path}  # fmt: skip
    log_z(generator=torch.Generator().manual_seed(0), **options)
    with pytest.raises(ValueError, match=rf"was saved by another estimate: {differs} differ"):
        log_z(generator=torch.Generator().manual_seed(0), **(options | change))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "grid"}, ValueError, '"ais", "smc" or "bridge"; got'),
        ({"samples": torch.zeros(4, 2), "trajectory": torch.zeros(4, 4, 2)}, TypeError, "not both"),
        ({"kernel": HamiltonianMonteCarlo(HarmonicModel())}, ValueError, "another model"),
        ({"n_particles": 1}, ValueError, "at least 2"),
        ({"method": "smc", "n_groups": 1}, ValueError, "n_groups must be at least 2"),
        ({"method": "bridge", "trajectory": torch.randn(4, 9, 2)}, ValueError, "too few"),
        ({"trajectory": torch.zeros(4, 1, 2)}, ValueError, "two draws a chain"),
    ],
)
def test_arguments_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        log_z(two_modes(), **{"n_particles": 50, **options})


def test_kernels_without_an_accept_test_are_refused():
    model = two_modes()
    with pytest.raises(ValueError, match="has no accept test"):
        log_z(model, kernel=LangevinDynamics(model))


# energies without a normaliser ----------------------------------------------------------------------------------------


def network(generator, confining=0.0, final=nn.Identity):
    model = MLPEnergy(2, hidden_dims=(16, 16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return EnergyModel(nn.Sequential(model, final()), event_shape=[2]) + HarmonicModel(k=confining or 1e-9) * (
        1.0 if confining else 0.0
    )


def test_energies_that_do_not_confine_are_refused(generator):
    for final in (nn.Identity, nn.Tanh):  # falls linearly in some directions; bounded
        model = network(generator, final=final)
        with pytest.raises(UnboundedEnergyError, match="Its integral is infinite"):
            log_z(model, n_particles=10, generator=generator)
    for model, dim in ((AckleyModel(), 3), (EnergyModel(lambda x: 0.5 * torch.log1p(x.square().sum(-1))), 2)):
        with pytest.raises(UnboundedEnergyError, match="hardly grows"):
            check_tails(model, dim=dim, generator=generator)


def test_a_narrow_direction_is_found_by_descent(generator):
    """Confined in all directions but within 0.02 of a half axis, in ten dimensions."""
    model = EnergyModel(lambda x: x.norm(dim=1) * (1 - 1.01 * (x[:, 0] / x.norm(dim=1).clamp_min(1e-9)) ** 3))
    with pytest.raises(UnboundedEnergyError, match="falls without end: along a direction of low energy"):
        check_tails(model, torch.randn(50, 10, generator=generator), generator=generator)


@pytest.mark.parametrize(
    "model",
    [
        HarmonicModel(k=1e-3, dim=50),
        FunnelModel(10),
        RosenbrockModel(dim=2),
        GaussianMixtureModel([[-50.0, 0.0], [50.0, 0.0]], scales=0.1),
        StandardizedModel(two_modes(), torch.tensor([7e4, -3.0]), torch.tensor([[5e3, 0.0], [10.0, 0.2]])),
        EnergyModel(lambda x: x.norm(dim=-1), event_shape=[3]),
        EnergyModel(lambda x: 3.0 * torch.log1p(x.square().sum(-1)), event_shape=[4]),  # Student's, 2 degrees
        EnergyModel(lambda x: (2 * torch.log1p(x.square())).sum(-1), event_shape=[10]),  # slower along the axes
        EnergyModel(lambda x: torch.where(x.abs().amax(1) < 1, 0.0, torch.inf) + 0 * x.sum(1), event_shape=[2]),
    ],
    ids=["harmonic", "funnel", "Rosenbrock", "mixture", "units", "Laplace", "Student", "axes", "walls"],
)
def test_energies_that_confine_pass(model, generator):
    check_tails(model, generator=generator)


def test_a_confined_network_passes(generator):
    check_tails(network(generator, confining=0.01), generator=generator)


def test_an_estimate_prints_all_that_is_known():
    found = LogZ(1.0, (0.9, 1.1), "a grid", ess=12.3, notes=("a note",))
    assert str(found) == "log Z = 1.000 [0.900, 1.100], by a grid\n  weight ESS 12\n  ! a note"
