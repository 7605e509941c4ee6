"""The long-run test: what it reports, and its verdicts on models that are right, wrong, and wrong later."""

import math
import signal

import pytest
import torch

from torchebm.core import (
    BaseModel,
    BaseSampler,
    EnergyModel,
    GaussianMixtureModel,
    HarmonicModel,
    SamplingInterruptedWarning,
)
from torchebm.evaluation import energy_distance, long_run, projections, sliced_wasserstein
from torchebm.evaluation.long_run_verdict import changes, judged
from torchebm.samplers import LangevinDynamics, MetropolisAdjustedLangevin

F64 = torch.float64


def normal(n, seed, *shape):
    return torch.randn(n, *(shape or (2,)), generator=torch.Generator().manual_seed(seed))


def mala(model=None, step_size=0.8):
    return MetropolisAdjustedLangevin(model or HarmonicModel(dim=2), step_size=step_size)


# what it reports ------------------------------------------------------------------------------------------------------


def test_the_chains_are_those_of_one_run(seeded):
    """However the run is cut: the same states, and the figures of each checkpoint belong to the states there."""
    data, start = normal(50, 1), normal(20, 2)
    found = long_run(mala(), start, 7, data, multiples=(1, 3, 5), generator=seeded(3), progress=False)
    assert found.steps.tolist() == [7, 21, 35]
    states = [mala().sample(x=start, n_steps=n, generator=seeded(3)) for n in found.steps.tolist()]
    assert torch.equal(found.x, states[-1])
    assert torch.equal(found.state.x, states[-1])
    model = HarmonicModel(dim=2)
    for k, x in enumerate(states):
        torch.testing.assert_close(found.energy[k], model(x).double())
        assert found.distances["energy_distance"][k] == pytest.approx(energy_distance(x, data), rel=1e-12)
        before = [start, *states][k]
        moved = (x.double() - before.double()).square().sum(1).mean().sqrt()
        apart = (data.double().unsqueeze(1) - data.double()).square().sum(-1).sum() / (50 * 49)
        assert found.displacement[k] == pytest.approx(float(moved / apart.sqrt()), rel=1e-6)
        quantiles = model(data).double().quantile(torch.tensor([0.01, 0.99], dtype=F64))
        inside = (model(x) >= quantiles[0]) & (model(x) <= quantiles[1])
        assert found.energies_within[k] == pytest.approx(float(inside.double().mean()))
    torch.testing.assert_close(found.data_energy, model(data).double())
    apart = torch.cdist(data.double(), data.double()).sum() / (50 * 49)
    assert found.floor == pytest.approx(float((1 / 20 + 1 / 50) * apart), rel=1e-9)
    assert found.saturation is None
    assert found.completed


def test_sliced_wasserstein_is_along_the_same_directions(seeded):
    data, start = normal(50, 1), normal(20, 2)
    found = long_run(mala(), start, 5, data, multiples=(1, 2), generator=seeded(3), progress=False)
    g = seeded(3)
    x = mala().sample(x=start, n_steps=10, generator=g)
    directions = projections(2, generator=g)
    assert found.distances["sliced_wasserstein"][1] == pytest.approx(sliced_wasserstein(x, data, directions), rel=1e-9)


def test_acceptance_and_the_trace_are_of_their_stretches(seeded):
    found = long_run(mala(), normal(20, 2), 9, normal(50, 1), multiples=(1, 5), generator=seeded(3), progress=False)
    _, noted = mala().sample(x=normal(20, 2), n_steps=45, generator=seeded(3), return_diagnostics=True)
    rates = noted["acceptance_rate"].double()
    assert found.acceptance.tolist() == pytest.approx([float(rates[:, :9].mean()), float(rates[:, 9:].mean())])
    assert found.trace_steps.tolist() == [*range(10), *(9 + 36 * (k + 1) // 20 for k in range(20))]
    energy = noted["energy"].double()[:, [step - 1 for step in found.trace_steps.tolist()[1:]]]
    torch.testing.assert_close(found.trace_energy[1:, 0], energy.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.trace_energy[1:, 3], energy.quantile(0.5, dim=0), rtol=1e-5, atol=1e-6)
    langevin = LangevinDynamics(HarmonicModel(dim=2), step_size=0.1)
    assert long_run(langevin, normal(5, 0), 2, normal(5, 1), progress=False).acceptance is None


@pytest.mark.parametrize("given", [True, False])
def test_saturation_counts_entries_at_the_box(given, generator):
    """Langevin steps of a flat energy, projected on a box: what lies at its bounds, of a sampler's clamp or given."""
    flat = LangevinDynamics(HarmonicModel(dim=2, k=1e-6), step_size=5.0, clamp=(-1.0, 1.0))
    box = (-1.0, 1.0) if given else None
    found = long_run(flat, normal(50, 2).clamp(-1, 1), 5, normal(50, 1) / 3, multiples=(1, 2), box=box,
                     generator=generator, progress=False)  # fmt: skip
    assert found.saturation[-1] == pytest.approx(float((found.x.abs() == 1).double().mean()))
    assert found.saturation[-1] > 0.4
    assert any("of the entries lie at the box" in reason for reason in found.reasons)


class Conditional(BaseModel):
    """A normal around a place that is given for each point."""

    def forward(self, x, place):
        return 0.5 * (x - place).square().sum(1)


def test_conditions_of_chains_and_of_data(generator):
    place, others = 5 * normal(30, 5), 5 * normal(60, 6)
    found = long_run(mala(Conditional()), place + normal(30, 1), 5, others + normal(60, 2), multiples=(1, 2),
                     model_kwargs={"place": place}, data_kwargs={"place": others}, generator=generator,
                     progress=False)  # fmt: skip
    torch.testing.assert_close(found.energy[-1], 0.5 * (found.x - place).square().sum(1).double())
    torch.testing.assert_close(found.data_energy, 0.5 * normal(60, 2).square().sum(1).double(), rtol=1e-4, atol=1e-5)


def test_images_of_another_dtype(generator):
    class Image(BaseModel):
        def forward(self, x):
            return 0.5 * x.square().flatten(1).sum(1)

    found = long_run(mala(Image()), normal(100, 1, 1, 2, 2), 20, normal(200, 2, 1, 2, 2).double(), generator=generator,
                     progress=False)  # fmt: skip
    assert found.x.shape == (100, 1, 2, 2)
    assert found.x.dtype == torch.float32
    assert found.distances["energy_distance"].dtype == F64


def test_the_sampler_says_in_which_dtype(generator):
    """Whole numbers to start from, and a model in float64: everything is in the sampler's dtype."""
    model = GaussianMixtureModel(means=torch.zeros(1, 2, dtype=F64), scales=1.0)
    sampler = MetropolisAdjustedLangevin(model, step_size=0.8, dtype=F64)
    found = long_run(sampler, torch.ones(20, 2, dtype=torch.long), 5, normal(50, 2), multiples=(1, 2),
                     generator=generator, progress=False)  # fmt: skip
    assert found.x.dtype == F64
    torch.testing.assert_close(found.data_energy, model(normal(50, 2).double()))


# verdicts -------------------------------------------------------------------------------------------------------------

SLOW = {"growth": 4.0}  # p <= 0.001 and a distance that is four times as large: less than once in a million


@pytest.mark.parametrize("adjusted", [True, False])
def test_the_right_model_is_stationary(adjusted, generator):
    sampler = mala() if adjusted else LangevinDynamics(HarmonicModel(dim=2), step_size=0.05)
    found = long_run(sampler, normal(200, 1), 20, normal(500, 2), generator=generator, progress=False, **SLOW)
    assert found.verdict == "stationary"
    assert found.completed
    assert float(found.distances["energy_distance"][-1]) < 5 * found.floor
    assert found.energies_within[-1] > 0.9
    assert "verdict: stationary" in repr(found)
    assert len(repr(found).splitlines()) == 1 + 3 + 1 + len(found.reasons)


def test_a_short_run_generator_is_drifting(generator):
    """Next to no noise: after five steps samples look like data, and then they gather where the energy is least."""
    cold = LangevinDynamics(HarmonicModel(dim=2), step_size=0.1, noise_scale=0.1)
    found = long_run(cold, normal(200, 1), 3, normal(500, 2), generator=generator, progress=False, **SLOW)
    assert found.verdict == "drifting"
    assert found.distances["energy_distance"][0] < 0.1 < 0.4 < found.distances["energy_distance"][-1]
    assert math.isnan(found.growth_p[0])
    assert found.growth_p[1:].tolist() == [0.001, 0.001]
    assert found.fall_p[1:].tolist() == [1.0, 1.0]


def test_a_mode_elsewhere_is_drifting(generator):
    """The energy is right where data is, and lower where there is none: chains leave after a while."""
    model = GaussianMixtureModel(means=[[0.0, 0.0], [6.0, 0.0]], scales=1.0, weights=[1e-3, 1 - 1e-3])
    sampler = LangevinDynamics(model, step_size=0.1)
    found = long_run(sampler, normal(200, 1), 15, normal(500, 2), generator=generator, progress=False, **SLOW)
    assert found.verdict == "drifting"
    assert found.distances["sliced_wasserstein"][-1] > 3


def test_energies_that_leave_those_of_data_are_drifting(generator):
    """By the energies alone: the density has the right mean and spread, and its chains fall into a deep narrow well."""

    class Well(BaseModel):
        def forward(self, x):
            squared = x.square().sum(1)
            return 0.5 * squared - 40 * torch.exp(-squared / 0.08)

    sampler = LangevinDynamics(Well(), step_size=0.002)
    found = long_run(sampler, normal(200, 1), 20, normal(500, 2), generator=generator, growth=1e6, progress=False)
    assert found.energies_within[0] > 0.5 > found.energies_within[-1]
    assert found.verdict == "drifting"


def test_chains_from_far_away_are_approaching(generator):
    sampler = LangevinDynamics(HarmonicModel(dim=2), step_size=0.01)
    found = long_run(sampler, 8 + normal(200, 1), 10, normal(500, 2), generator=generator, progress=False, **SLOW)
    assert found.verdict == "approaching"
    assert found.fall_p[-1] == 0.001


def test_chains_that_do_not_move_are_stuck(generator):
    found = long_run(mala(step_size=1e-8), normal(200, 1), 5, normal(500, 2), generator=generator, progress=False)
    assert found.verdict == "stuck"
    assert "chains moved" in found.reasons[0]


def test_a_model_of_something_else_is_apart(generator):
    """Stationary from the start, around another mean: no energy is that of data."""
    found = long_run(mala(HarmonicModel(dim=10, k=1.0), 0.3), normal(200, 1, 10), 20, 5 + normal(300, 2, 10),
                     generator=generator, progress=False, **SLOW)  # fmt: skip
    assert found.verdict == "apart"


def test_chains_that_diverge_are_told(generator):
    """Steps beyond the stable ones: no error, no warning, the verdict says it; distances of nowhere are NaN."""
    sampler = LangevinDynamics(HarmonicModel(dim=2), step_size=2.5)
    found = long_run(sampler, normal(50, 1), 20, normal(100, 2), generator=generator, progress=False)
    assert found.verdict == "diverged"
    assert not found.completed
    assert found.n_diverged.tolist() == [0, 50]
    assert found.distances["energy_distance"][1].isnan()
    assert "50 of 50 chains are not finite" in found.reasons[0]
    assert "ended early" in repr(found)
    within_a_stretch = long_run(sampler, normal(50, 1), 20, normal(100, 2), multiples=(1, 500), generator=generator,
                                progress=False)  # fmt: skip
    assert within_a_stretch.verdict == "diverged"


def test_one_chain_that_diverges_is_enough(generator):
    """Beyond a wall the energy is NaN: the chain that stands there counts, the others go on to the end."""

    class Cliff(BaseModel):
        def forward(self, x):
            energy = 0.5 * x.square().sum(1)
            return torch.where(x[:, 0] > 30, torch.nan, energy)

    start = normal(20, 1)
    start[3] = 40.0
    found = long_run(LangevinDynamics(Cliff(), step_size=0.05), start, 3, normal(50, 2), generator=generator,
                     multiples=(1, 4), progress=False)  # fmt: skip
    assert found.verdict == "diverged"
    assert found.completed
    assert found.n_diverged.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("distance", "p", "within", "moved", "verdict"),
    [
        ([0.1, 0.3], (0.001, 1.0), [0.9, 0.9], 1.0, "drifting"),
        ([0.1, 0.3], (0.01, 1.0), [0.9, 0.9], 1.0, "stationary"),  # grown, and not beyond chance
        ([0.1, 0.15], (0.001, 1.0), [0.9, 0.9], 1.0, "stationary"),  # beyond chance, and by little
        ([0.1, 0.3, 0.1], (0.001, 1.0), [0.9, 0.9, 0.9], 1.0, "drifting"),  # in between
        ([0.1, 0.1], (0.5, 0.5), [0.9, 0.4], 1.0, "drifting"),
        ([0.1, 0.1], (0.5, 0.5), [0.4, 0.4], 1.0, "apart"),
        ([0.1, 0.1], (0.5, 0.5), [0.4, 0.4], 0.05, "stuck"),
        ([0.3, 0.1], (1.0, 0.001), [0.4, 0.9], 1.0, "approaching"),
        ([0.3, 0.1], (1.0, 0.01), [0.4, 0.9], 1.0, "stationary"),
        ([0.3, 0.2], (1.0, 0.001), [0.4, 0.9], 1.0, "stationary"),
        ([0.3], (1.0, 1.0), [0.9], 1.0, "too short"),
    ],
)
def test_what_each_verdict_rests_on(distance, p, within, moved, verdict):
    """The rules one by one, with a growth of two and p-values of each checkpoint but the first."""
    n = len(distance)
    figures = {
        "steps": torch.arange(1, n + 1),
        "energy": torch.zeros(n, 5),
        "energies_within": torch.tensor(within),
        "distances": {"energy_distance": torch.tensor(distance)},
        "floor": 0.01,
        "growth_p": torch.tensor([math.nan] + [p[0]] * (n - 1), dtype=F64),
        "fall_p": torch.tensor([math.nan] + [p[1]] * (n - 1), dtype=F64),
        "displacement": torch.full((n,), moved),
        "n_diverged": torch.zeros(n, dtype=torch.long),
    }
    assert judged(figures, normal(5, 0), torch.arange(5.0), 2.0, None)[0] == verdict


# the test for growth --------------------------------------------------------------------------------------------------


def test_changes_are_differences_of_distances(generator):
    """Chain by chain exchanged, against the distances of the sets that result."""
    first, later = torch.randn(2, 6, 3, generator=generator, dtype=F64)
    data = torch.randn(11, 3, generator=generator, dtype=F64)
    swaps = torch.rand(6, 9, generator=generator) < 0.5
    swaps[:, 0] = False
    found = changes(first, later + 1, data, swaps)
    for k, swap in enumerate(swaps.T):
        one = torch.where(swap[:, None], later + 1, first)
        other = torch.where(swap[:, None], first, later + 1)
        expected = energy_distance(other, data) - energy_distance(one, data)
        assert float(found[k]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_p_values_of_growth_are_uniform_for_a_stationary_chain(generator, off_uniform, bound):
    """300 runs of 12 reversible chains that start in the density. Fails by chance four times in a million."""
    found = [long_run(mala(), torch.randn(12, 2, generator=generator), 1, torch.randn(30, 2, generator=generator),
                      multiples=(1, 2), generator=generator, progress=False) for _ in range(300)]  # fmt: skip
    for name in ("growth_p", "fall_p"):
        p = torch.tensor([float(getattr(run, name)[1]) for run in found], dtype=F64)
        p = p - torch.rand(300, generator=generator, dtype=F64) / 1000
        assert max(off_uniform(p)) < bound(300)


# interruption, bad input ----------------------------------------------------------------------------------------------


class Interrupted(BaseModel):
    """Presses Ctrl-C when it is evaluated for the n-th time, with its gradient or without."""

    event_shape = torch.Size([2])

    def __init__(self, after, with_gradient=True):
        super().__init__()
        self.after, self.with_gradient, self.calls = after, with_gradient, 0

    def forward(self, x):
        self.calls += x.requires_grad == self.with_gradient
        if self.calls == self.after and x.requires_grad == self.with_gradient:
            signal.raise_signal(signal.SIGINT)
        return 0.5 * x.square().sum(1)


@pytest.mark.parametrize(
    ("after", "with_gradient", "steps", "verdict"),
    [(93, True, [10, 95], "stationary"), (4, True, [4], "too short"), (7, False, [3], "too short"),
     (300, True, [10, 100, 345], "stationary")],
    ids=["on the way", "before the first checkpoint", "while energies are evaluated", "within a stretch"],
)  # fmt: skip
def test_ctrl_c_gives_what_there_is(after, with_gradient, steps, verdict, generator):
    """The run ends with the stretch that it is in, and what it reached is a checkpoint."""
    sampler = LangevinDynamics(Interrupted(after, with_gradient), step_size=0.3)
    with pytest.warns(SamplingInterruptedWarning, match=f"interrupted after {steps[-1]} of 3000 transitions"):
        found = long_run(sampler, normal(100, 1), 10, normal(200, 2), multiples=(1, 10, 300), generator=generator,
                         progress=False, **SLOW)  # fmt: skip
    assert not found.completed
    assert found.steps.tolist() == steps
    assert found.verdict == verdict
    assert found.state.step == steps[-1]
    assert torch.equal(found.state.x, found.x)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_raises(generator):
    class Insistent(Interrupted):
        def forward(self, x):
            self.calls = self.after - 1 if self.calls >= self.after else self.calls
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        long_run(LangevinDynamics(Insistent(27), step_size=0.3), normal(10, 1), 100, normal(20, 2), progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_there_is_anything_raises():
    with pytest.raises(KeyboardInterrupt):
        long_run(LangevinDynamics(Interrupted(1, False)), normal(10, 1), 10, normal(20, 2), progress=False)


def test_a_progress_bar_is_shown(capsys):
    long_run(mala(), normal(10, 1), 2, normal(20, 2), multiples=(1, 2))
    assert "long run: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_steps": 0}, "n_steps must be at least 1"),
        ({"multiples": (1, 1)}, r"multiples must rise, as \(1, 10, 100\) do; got \(1, 1\)"),
        ({"multiples": ()}, "multiples must rise"),
        ({"growth": 1.0}, "growth must be greater than 1"),
        ({"data": normal(20, 1, 3)}, r"start holds points of shape \[2\], data of \[3\]"),
        ({"data": normal(20, 1) * math.nan}, "data has entries that are not finite, in 20 of 20"),
        ({"data": torch.ones(20, 2)}, "all points of data are the same"),
        ({"sampler": mala(EnergyModel(lambda x: x.log().sum(1)))}, "energies of data has entries that are not finite"),
        ({"start": normal(1, 1)}, "start holds 1 points; at least 2"),
    ],
    ids=["steps", "multiples", "no multiples", "growth", "shape", "nan", "constant", "energies", "one"],
)
def test_bad_input(change, message):
    arguments = {"sampler": mala(), "start": normal(10, 1), "n_steps": 5, "data": normal(20, 2), **change}
    with pytest.raises(ValueError, match=message):
        long_run(**arguments, progress=False)


def test_a_model_is_no_sampler():
    class Own(BaseSampler):
        def sample(self, **options):
            return None

    for wrong in (HarmonicModel(dim=2), Own(HarmonicModel(dim=2))):
        with pytest.raises(TypeError, match="must be a MarkovSampler, such as LangevinDynamics"):
            long_run(wrong, normal(10, 1), 5, normal(20, 2))
